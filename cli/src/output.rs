//! Listings and shows in the four formats. JSON and YAML are the API's own values; tables are for people and may change.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use gtvp_model::fault::Fault;
use gtvp_model::union::UnixTime;
use serde::Serialize;

use crate::args::Format;
use crate::failure::clean;

/// Prints on standard output. Ends the program quietly when nobody reads any more (`gtvp … | head`).
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// The same for bytes.
pub fn print_bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => {
            eprintln!("error: standard output cannot be written\n  because {e}");
            std::process::exit(1);
        }
    }
}

/// A column of a listing.
pub struct Column<T> {
    title: &'static str,
    wide: bool,
    cell: fn(&T) -> String,
}

/// A column.
pub const fn column<T>(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { title, wide: false, cell }
}

/// A column of the wide table only.
pub const fn wide<T>(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { title, wide: true, cell }
}

/// Prints a listing.
pub fn listing<T: Serialize>(format: Format, items: &[T], columns: &[Column<T>]) -> Result<(), Fault> {
    match format {
        Format::Json | Format::Yaml => value(format, &items),
        Format::Table | Format::Wide => {
            print(&table(items, columns, format == Format::Wide));
            Ok(())
        }
    }
}

/// A listing as a table.
pub fn table<T>(items: &[T], columns: &[Column<T>], with_wide: bool) -> String {
    let shown: Vec<&Column<T>> = columns.iter().filter(|c| with_wide || !c.wide).collect();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(shown.iter().map(|c| c.title));
    for item in items {
        table.add_row(shown.iter().map(|c| clean(&(c.cell)(item)).replace(['\n', '\t'], " ")));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Prints one thing for programs; what a table of it looks like is its command's business.
pub fn value<T: Serialize>(format: Format, value: &T) -> Result<(), Fault> {
    print(&text(format, value)?);
    Ok(())
}

fn text<T: Serialize>(format: Format, value: &T) -> Result<String, Fault> {
    match format {
        Format::Yaml => yaml(value).map_err(|e| Fault::internal("the answer cannot be written", &e)),
        _ => serde_json::to_string_pretty(value)
            .map(|t| t + "\n")
            .map_err(|e| Fault::internal("the answer cannot be written", &e)),
    }
}

/// The same values as in JSON: `exit: {code: 0}` and not the tag `!code`, which readers of YAML do not take.
fn yaml<T: Serialize>(value: &T) -> Result<String, serde_yaml_ng::Error> {
    let mut text = Vec::new();
    let mut to = serde_yaml_ng::Serializer::new(&mut text);
    serde_yaml_ng::with::singleton_map_recursive::serialize(value, &mut to)?;
    drop(to);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `name  value` lines.
pub fn facts(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    pairs
        .iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(k, v)| format!("{k:width$}  {}\n", clean(v).replace('\n', &indent)))
        .collect()
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Milliseconds since 1970-01-01 UTC as `2026-11-24T06:30:00.123Z`.
pub fn time(ms: u64) -> String {
    let second = UnixTime(ms / 1000).to_string();
    format!("{}.{:03}Z", second.trim_end_matches('Z'), ms % 1000)
}

/// How long ago, for people.
pub fn ago(ms: u64) -> String {
    span(now_ms().saturating_sub(ms))
}

/// How far ahead it is, in one unit.
pub fn until(ms: u64) -> String {
    span(ms.saturating_sub(now_ms()))
}

fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_501_801_007), "2026-11-24T06:30:01.007Z");
    }

    #[test]
    fn a_table_has_a_head_even_when_it_is_empty_and_json_is_an_array() {
        let columns = [column("NAME", |n: &String| n.clone()), wide("LENGTH", |n| n.len().to_string())];
        assert_eq!(table(&[], &columns, false), "NAME\n");
        assert_eq!(table(&["web".to_owned()], &columns, true), "NAME  LENGTH\nweb   3\n");
        let none: [String; 0] = [];
        assert_eq!(text(Format::Json, &none.as_slice()).unwrap(), "[]\n");
    }

    #[test]
    fn yaml_has_no_tags() {
        use gtvp_model::boxview::ExitStatus;
        assert_eq!(text(Format::Yaml, &[ExitStatus::Code(3)].as_slice()).unwrap(), "- code: 3\n");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            (size(12), size(1536), size(5 << 30)),
            ("12 B".into(), "1.5 KiB".into(), "5.0 GiB".into())
        );
    }
}
