//! `gtvp events`.

use gtvp_model::event::{Event, Severity};
use gtvp_model::fault::Fault;

use crate::args::{Events, Format};
use crate::client::Api;
use crate::failure::clean;
use crate::follow::Lines;
use crate::output::{print, time, value};

/// Prints what happened. With `-f` and -o json each event is a line of its own, since an array would not end.
pub async fn events(api: &Api, words: &Events) -> Result<(), Fault> {
    let (mut after, mut tail) = (words.after, words.tail);
    let mut all = Vec::new();
    let mut lines = Lines::new(api);
    let format = words.output.output;
    loop {
        let tail_query = tail.map(|n| format!("&tail={n}")).unwrap_or_default();
        let path = format!("/v1/events?after={after}&follow={}{tail_query}", words.follow);
        let Some(line) = lines.next(&path).await? else { break };
        let event: Event = serde_json::from_slice(&line)
            .map_err(|e| Fault::internal("the member answered something unreadable", &e))?;
        after = event.seq;
        // Where it went on is known from here.
        tail = None;
        match (format, words.follow) {
            (Format::Table | Format::Wide, _) => print(&row(&event, format == Format::Wide)),
            (Format::Json, true) => print(&(String::from_utf8_lossy(&line).into_owned() + "\n")),
            (Format::Yaml, true) => {
                print("---\n");
                value(format, &event)?;
            }
            (_, false) => all.push(event),
        }
    }
    match (format, words.follow) {
        (Format::Json | Format::Yaml, false) => value(format, &all),
        _ => Ok(()),
    }
}

fn row(e: &Event, everything: bool) -> String {
    let severity = match e.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let place = if everything { format!("{:>6}  {:<8}  ", e.seq, e.member) } else { String::new() };
    let about = e.box_name.as_deref().unwrap_or("-");
    let message = clean(&e.message).replace('\n', " ");
    format!("{place}{}  {severity:<7}  {:<24}  {about:<16}  {message}\n", time(e.time_ms), clean(&e.kind))
}
