//! What tests read of the pages in docs/spec.

/// Rows of the page's table whose head begins with `head`, cell by cell.
pub fn rows<'a>(page: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let table = page.lines().skip_while(|l| !l.starts_with(head)).skip(2);
    table.take_while(|l| l.starts_with('|')).map(|l| l.split('|').skip(1).map(str::trim).collect()).collect()
}

/// Asserts that the page has these messages, each with its kind and bound, and no others.
#[track_caller]
pub fn has_messages(page: &str, table: &[(&str, u8, usize)]) {
    let have: Vec<_> =
        table.iter().map(|(n, k, max)| (k.to_string(), (*n).to_owned(), max.to_string())).collect();
    let want = rows(page, "| kind | message |");
    let want: Vec<_> = want.iter().map(|r| (r[0].to_owned(), r[1].to_owned(), r[3].to_owned())).collect();
    assert_eq!(have, want);
}
