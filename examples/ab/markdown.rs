//! Markdown that stays what it is, whatever names are in it.

use std::fmt::Write;

/// A text that is shown as it is: what Markdown or HTML would act on is escaped, what breaks
/// lines becomes a space.
pub fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '!' | '~' | '$' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(plain(c)),
        }
    }
    escaped
}

/// A text as code within a line.
pub fn code(text: &str) -> String {
    let text: String = text.chars().map(plain).collect();
    if text.trim().is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    let space = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{space}{text}{space}{fence}")
}

/// Lines of code, or of what a program said.
pub fn block(language: &str, code: &str) -> String {
    let code: String = code
        .chars()
        .map(|c| if c == '\n' { c } else { plain(c) })
        .collect();
    let fence = "`".repeat(longest_run(&code).max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}\n", code.trim_end())
}

/// A picture, with what it shows for those who do not see it.
pub fn picture(alt: &str, file: &str) -> String {
    format!("![{}]({file})\n", text(alt))
}

/// What breaks a line or steers a terminal, as something harmless.
fn plain(c: char) -> char {
    match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

fn longest_run(text: &str) -> usize {
    let runs = text.split(|c| c != '`').map(str::len);
    runs.max().unwrap_or(0)
}

/// A table. Cells are Markdown already; a `|` in one is escaped.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: usize,
    text: String,
}

impl Table {
    /// With this head. The first column is of names, the others of numbers.
    pub fn new(head: &[&str]) -> Self {
        Self::with_names(head, 1)
    }

    /// With this head, all of it names.
    pub fn of_text(head: &[&str]) -> Self {
        Self::with_names(head, head.len())
    }

    /// With this head. The first columns, so many of them, are of names.
    pub fn with_names(head: &[&str], names: usize) -> Self {
        let mut table = Self {
            columns: head.len(),
            text: String::new(),
        };
        table.row(head.iter().map(|cell| (*cell).to_owned()));
        let rule = (0..head.len()).map(|column| if column < names { "---" } else { "---:" });
        let rule: Vec<&str> = rule.collect();
        // Writing to a String does not fail.
        let _ = writeln!(table.text, "| {} |", rule.join(" | "));
        table
    }

    /// One more row. Cells that it lacks are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| cell.replace('|', "\\|"));
        let mut cells: Vec<String> = cells.take(self.columns).collect();
        cells.resize(self.columns, String::new());
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    /// The table, with an empty line behind it.
    pub fn finish(mut self) -> String {
        self.text.push('\n');
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_cell() {
        let mut table = Table::new(&["variant", "N"]);
        table.row([text("a|b\n| c <script> *d* `e` [f](g)"), "3".to_owned()]);
        let table = table.finish();
        let row = table.lines().nth(2).unwrap();
        assert_eq!(
            row,
            r"| a\|b \| c &lt;script&gt; \*d\* \`e\` \[f\](g) | 3 |"
        );
        assert_eq!(table.lines().count(), 4);
    }

    #[test]
    fn code_is_fenced_by_more_than_it_holds() {
        assert_eq!(code("a`b``c"), "```a`b``c```");
        assert_eq!(code("`"), "`` ` ``");
        assert_eq!(code("a\nb\u{1b}"), "`a b\u{fffd}`");
        assert_eq!(block("sh", "x ``` y\nz"), "````sh\nx ``` y\nz\n````\n");
    }
}
