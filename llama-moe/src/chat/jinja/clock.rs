//! The date for templates that write it into the prompt (`strftime_now`).

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
const SECONDS_PER_DAY: u64 = 86_400;

/// `now` in UTC, in the notation of C's `strftime`; the directives that templates use, and
/// an error that names any other. A time before 1970 counts as 1970.
pub(crate) fn strftime(now: SystemTime, format: &str) -> Result<String, String> {
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let days = seconds / SECONDS_PER_DAY;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day, day_of_year) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let weekday = WEEKDAYS[(days % 7) as usize];
    let hour12 = (hour + 11) % 12 + 1;

    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let mut directive = letters.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = letters.next();
        }
        let width = if unpadded { 0 } else { 2 };
        // Writing to a String cannot fail.
        let _ = match directive {
            Some('Y') => write!(text, "{year}"),
            Some('y') => write!(text, "{:0width$}", year % 100),
            Some('m') => write!(text, "{month:0width$}"),
            Some('d') => write!(text, "{day:0width$}"),
            Some('e') => write!(text, "{day:width$}"),
            Some('j') if unpadded => write!(text, "{day_of_year}"),
            Some('j') => write!(text, "{day_of_year:03}"),
            Some('H') => write!(text, "{hour:0width$}"),
            Some('I') => write!(text, "{hour12:0width$}"),
            Some('M') => write!(text, "{minute:0width$}"),
            Some('S') => write!(text, "{second:0width$}"),
            Some('p') => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('B') => write!(text, "{month_name}"),
            Some('b') => write!(text, "{}", &month_name[..3]),
            Some('A') => write!(text, "{weekday}"),
            Some('a') => write!(text, "{}", &weekday[..3]),
            Some('F') => write!(text, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => write!(text, "UTC"),
            Some('z') => write!(text, "+0000"),
            Some('%') => write!(text, "%"),
            Some(other) => return Err(format!("strftime_now does not know %{other}")),
            None => return Err("strftime_now's format ends with a lone %".to_owned()),
        };
    }
    Ok(text)
}

/// Year, month from 1, day from 1 and day of the year from 1, of a day counted from
/// 1970-01-01.
fn civil(mut day: u64) -> (u64, u64, u64, u64) {
    // The calendar repeats every 400 years.
    const DAYS_PER_ERA: u64 = 146_097;
    let mut year = 1970 + 400 * (day / DAYS_PER_ERA);
    day %= DAYS_PER_ERA;
    while day >= days_of_year(year) {
        day -= days_of_year(year);
        year += 1;
    }
    let day_of_year = day + 1;
    let february = 28 + (days_of_year(year) - 365);
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1, day_of_year)
}

fn days_of_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(leap)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, format: &str) -> String {
        strftime(UNIX_EPOCH + Duration::from_secs(seconds), format).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(
            at(0, "%A %d %B %Y %H:%M:%S"),
            "Thursday 01 January 1970 00:00:00"
        );
        assert_eq!(at(951_782_400, "%F %a %j"), "2000-02-29 Tue 060");
        assert_eq!(at(951_868_800, "%d %b %Y"), "01 Mar 2000");
        assert_eq!(at(1_735_689_599, "%F %T %j"), "2024-12-31 23:59:59 366");
        assert_eq!(at(4_107_542_400, "%F"), "2100-03-01");
        assert_eq!(
            at(1_700_000_000, "%-d.%-m.%y %I:%M %p %%"),
            "14.11.23 10:13 PM %"
        );
    }

    #[test]
    fn an_unknown_directive_is_named() {
        assert!(strftime(UNIX_EPOCH, "%Q").unwrap_err().contains("%Q"));
        assert!(strftime(UNIX_EPOCH, "%").is_err());
    }
}
