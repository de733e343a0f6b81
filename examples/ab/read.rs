//! `results.json`, read.

use std::fs;
use std::path::Path;

use common::Result;
use serde::Deserialize;

use crate::results::{Results, SCHEMA};

/// Reads the results of a comparison.
///
/// # Errors
/// If the file cannot be read, is none of ours, or has another form than this program's.
pub fn read_results(path: &Path) -> Result<Results> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse_results(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The same, of the file's text.
pub fn parse_results(text: &str) -> Result<Results, String> {
    #[derive(Deserialize)]
    struct Form {
        schema: u32,
    }
    let form: Form = serde_json::from_str(text)
        .map_err(|error| format!("no results of a comparison ({error})"))?;
    if form.schema != SCHEMA {
        return Err(format!(
            "results of schema {}, but this program reads {SCHEMA}: use the version that wrote \
             them, or measure again",
            form.schema
        ));
    }
    serde_json::from_str(text).map_err(|error| format!("results that are damaged ({error})"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::fixture;

    #[test]
    fn what_is_written_is_read_again() {
        let results = parse_results(fixture::text()).unwrap();
        let written = serde_json::to_string(&results).unwrap();
        let again = serde_json::to_string(&parse_results(&written).unwrap()).unwrap();
        assert_eq!(written, again);
    }

    /// The names of all fields, but of objects whose keys are data.
    fn fields(value: &Value, into: &mut BTreeSet<String>) {
        const DATA: [&str; 4] = ["metadata", "environment", "bytes_by_type", "drivers"];
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    into.insert(name.clone());
                    if !DATA.contains(&name.as_str()) {
                        fields(value, into);
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| fields(value, into)),
            _ => {}
        }
    }

    #[test]
    fn every_field_is_documented() {
        let guide = include_str!("../../docs/ab-results.md");
        // Written again, so that no field is left out.
        let written = serde_json::to_value(fixture::with_caches()).unwrap();
        let mut names = BTreeSet::new();
        fields(&written, &mut names);
        assert!(names.len() > 80);
        for name in names.iter().filter(|name| *name != "Exactly") {
            assert!(guide.contains(&format!("`{name}`")), "{name}");
        }
        assert!(guide.contains(&format!("| `schema` | {SCHEMA}.")));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let other = fixture::text().replacen("\"schema\": 1", "\"schema\": 99", 1);
        let damaged = fixture::text().replacen("\"generate\": 4", "\"generate\": -4", 1);
        let cut = &fixture::text()[..1000];
        for (text, why) in [
            (other.as_str(), "schema 99"),
            (damaged.as_str(), "damaged"),
            (cut, "no results"),
            ("{}", "no results"),
            ("[]", "no results"),
            ("", "no results"),
        ] {
            let error = parse_results(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let error = read_results(Path::new("no/such/results.json")).unwrap_err();
        assert!(error.to_string().contains("no/such/results.json"));
    }
}
