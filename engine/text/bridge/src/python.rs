//! The bits of Python that chat templates lean on and minijinja does not have: how Python prints a value, json.dumps,
//! and strftime.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};
use serde_json::Value as Json;

/// `{{ value }}` as Python's str() has it.
pub fn print(out: &mut Output, _: &State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text)?,
        None if value.is_undefined() => {}
        None => out.write_str(&repr(value)?)?,
    }
    Ok(())
}

fn repr(value: &Value) -> Result<String, Error> {
    let joined = |parts: Result<Vec<String>, Error>| parts.map(|parts| parts.join(", "));
    Ok(match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => format!("[{}]", joined(value.try_iter()?.map(|item| repr(&item)).collect())?),
        ValueKind::Map => {
            let pair = |key: Value| Ok(format!("{}: {}", repr(&key)?, repr(&value.get_item(&key)?)?));
            format!("{{{}}}", joined(value.try_iter()?.map(pair).collect())?)
        }
        _ => value.to_string(),
    })
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for symbol in text.chars() {
        match symbol {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if symbol == quote => out.extend(['\\', symbol]),
            _ => out.push(symbol),
        }
    }
    out.push(quote);
    out
}

/// json.dumps(value, ensure_ascii=False, indent=indent), as transformers' `tojson`.
pub fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    if indent.is_some_and(|indent| indent > 64) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent is over 64"));
    }
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(Error::new(ErrorKind::UnknownFilter, "tojson with ensure_ascii"));
    }
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut out = String::new();
    write_json(&json, indent, 0, &mut out);
    Ok(out)
}

fn write_json(json: &Json, indent: Option<usize>, depth: usize, out: &mut String) {
    let (open, close, size) = match json {
        Json::Array(items) => ('[', ']', items.len()),
        Json::Object(items) => ('{', '}', items.len()),
        _ => return out.push_str(&json.to_string()),
    };
    out.push(open);
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    for index in 0..size {
        if index > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        line(depth + 1, out);
        match json {
            Json::Array(items) => write_json(&items[index], indent, depth + 1, out),
            Json::Object(items) => {
                if let Some((key, item)) = items.iter().nth(index) {
                    out.push_str(&Json::from(key.as_str()).to_string());
                    out.push_str(": ");
                    write_json(item, indent, depth + 1, out);
                }
            }
            _ => {}
        }
    }
    if size > 0 {
        line(depth, out);
    }
    out.push(close);
}

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
];

/// datetime.strftime in UTC, in English. An unknown directive is an error by name.
pub fn strftime(now_unix_seconds: i64, format: &str) -> Result<String, Error> {
    let days = now_unix_seconds.div_euclid(86_400);
    let second = now_unix_seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let weekday = DAYS[days.rem_euclid(7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut symbols = format.chars();
    while let Some(symbol) = symbols.next() {
        if symbol != '%' {
            out.push(symbol);
            continue;
        }
        let directive = symbols.next();
        let text = match directive {
            Some('Y') => format!("{year:04}"),
            Some('y') => format!("{:02}", year.rem_euclid(100)),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{:02}", second % 60),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name[..3].into(),
            Some('j') => format!("{:03}", days - days_before(year) + 1),
            Some('F') => format!("{year:04}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('Z') => "UTC".into(),
            Some('z') => "+0000".into(),
            Some('%') => "%".into(),
            _ => {
                let directive = directive.map(String::from).unwrap_or_default();
                return Err(Error::new(ErrorKind::UnknownFunction, format!("strftime_now('%{directive}')")));
            }
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// Days from 1970-01-01 to the first of January of `year`, in the Gregorian calendar.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    365 * (year - 1970) + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 477
}

fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366); // never too late
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = i64::from((year % 4 == 0 && year % 100 != 0) || year % 400 == 0);
    let mut rest = days - days_before(year);
    for (index, length) in [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
        if rest < length {
            return (year, index as i64 + 1, rest + 1);
        }
        rest -= length;
    }
    unreachable!("a year has at most 366 days")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_gregorian_calendar() {
        let show = |seconds| strftime(seconds, "%Y-%m-%d %H:%M:%S %a %b %j %I%p").unwrap();
        assert_eq!(show(0), "1970-01-01 00:00:00 Thu Jan 001 12AM");
        assert_eq!(show(951_782_399), "2000-02-28 23:59:59 Mon Feb 059 11PM");
        assert_eq!(show(951_782_400), "2000-02-29 00:00:00 Tue Feb 060 12AM");
        assert_eq!(show(1_735_689_599), "2024-12-31 23:59:59 Tue Dec 366 11PM");
        assert_eq!(show(1_735_689_600), "2025-01-01 00:00:00 Wed Jan 001 12AM");
        assert!(strftime(0, "%Q").is_err());
    }
}
