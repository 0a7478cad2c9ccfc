//! `gtvp union …`, `gtvp token …`, `gtvp join`, `gtvp reference …`.

use std::path::Path;
use std::time::Duration;

use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::operation::Operation;
use gtvp_model::unionview::{
    Change, Departure, ForcedLeave, HistoryRow, Recovery, RecoveryFollow, RecoveryWish, ReferenceRow,
    ReferenceWish, TokenMade, TokenRow, TokenWish, UnionBegin, UnionJoin, UnionSummary,
};
use hyper::Method;

use crate::args::{Format, Join, Leave, Output, ReferenceCommand, TokenCommand, UnionCommand};
use crate::client::{Api, segment};
use crate::failure::invalid;
use crate::follow::{Interrupts, ended_well, follow};
use crate::output::{Column, column, facts, listing, print, time, until, value, wide};
use crate::specfile::read;

/// Longest token or manifest that is read.
const MAX_INPUT: u64 = 1024 * 1024;

/// `gtvp union …`.
pub async fn run(api: &Api, command: &UnionCommand) -> Result<(), Fault> {
    match command {
        UnionCommand::Init { name, allow_software_tpm, allow_no_tpm, attest_every, ek, output } => {
            let begin = UnionBegin {
                name: name.clone(),
                software_tpms: *allow_software_tpm,
                without_tpm: *allow_no_tpm,
                attest_every_ms: attest_every.map(|d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX)),
                ek: ek.map(|ek| ek.to_string()),
            };
            shown(&api.change(Method::POST, "/v1/union", &begin).await?, *output)
        }
        UnionCommand::Show(output) => shown(&api.get("/v1/union").await?, *output),
        UnionCommand::History(output) => history(api, "/v1/union/history", *output).await,
        UnionCommand::Recover { follow: Some(hash), .. } => {
            let follow = RecoveryFollow { hash: hash.to_string() };
            told(&api.change(Method::POST, "/v1/union/recover/follow", &follow).await?);
            Ok(())
        }
        UnionCommand::Recover { yes, reason, lost, stands_still, output, follow: None } => {
            let wish = RecoveryWish {
                lost: lost.iter().map(ToString::to_string).collect(),
                reason: reason.clone(),
                confirmed: *yes,
                stands_still: *stands_still,
            };
            let recovery: Recovery = api.change(Method::POST, "/v1/union/recover", &wish).await?;
            match output.output {
                Format::Json | Format::Yaml => value(output.output, &recovery)?,
                _ => print(&recovered(&recovery)),
            }
            Ok(())
        }
        UnionCommand::Leave(words) => leave(api, words).await,
    }
}

/// `gtvp union leave`, `gtvp member leave`.
pub async fn leave(api: &Api, words: &Leave) -> Result<(), Fault> {
    if !words.force {
        told(&api.act(Method::POST, "/v1/union/leave").await?);
        return Ok(());
    }
    let wish = ForcedLeave { confirmed: words.yes };
    print(&departure(&api.change(Method::POST, "/v1/union/leave/force", &wish).await?));
    Ok(())
}

/// What a change did.
pub fn told(change: &Change) {
    print(&format!("{}\n", change.about));
}

/// Entries of the record.
pub async fn history(api: &Api, path: &str, output: Output) -> Result<(), Fault> {
    let rows: Vec<HistoryRow> = api.get(path).await?;
    listing(output.output, &rows, HISTORY)
}

/// `gtvp token …`.
pub async fn token(api: &Api, command: &TokenCommand) -> Result<(), Fault> {
    match command {
        TokenCommand::Create { ek, expires, platform_identity, output } => {
            let wish = TokenWish {
                expires_s: expires.map(|d: Duration| d.as_secs()),
                ek: ek.map(|ek| ek.to_string()),
                platform_identity: *platform_identity,
            };
            let made: TokenMade = api.change(Method::POST, "/v1/tokens", &wish).await?;
            match output.output {
                Format::Table => print(&format!("{}\n", made.token)),
                Format::Wide => print(&facts(&[
                    ("token", made.token.clone()),
                    ("id", made.id.clone()),
                    ("expires", time(made.expires.saturating_mul(1000))),
                    ("leads to", made.endpoint.clone()),
                ])),
                format => value(format, &made)?,
            }
        }
        TokenCommand::Ls(output) => {
            let rows: Vec<TokenRow> = api.get("/v1/tokens").await?;
            listing(output.output, &rows, TOKENS)?;
        }
        TokenCommand::End { id } => {
            told(&api.act(Method::DELETE, &format!("/v1/tokens/{id}")).await?);
        }
    }
    Ok(())
}

/// `gtvp join`; gives the exit status.
pub async fn join(api: &Api, words: &Join) -> Result<u8, Fault> {
    let token = match words.token.as_str() {
        "-" => read(Path::new("-"), MAX_INPUT)?.trim().to_owned(),
        token => token.to_owned(),
    };
    let mut interrupts = Interrupts::take()?;
    let operation: Operation = api.change(Method::POST, "/v1/union/join", &UnionJoin { token }).await?;
    let (operation, interrupted) = follow(api, &operation.id, words.quiet, &mut interrupts).await?;
    if let Some(signal) = interrupted {
        return Ok(signal.exit_code());
    }
    let operation = ended_well(operation)?;
    let union = operation.result.map(serde_json::from_value::<UnionSummary>);
    match union {
        Some(Ok(union)) => shown(&union, words.output)?,
        _ => {
            return Err(Fault::new(FaultKind::Internal, "the member does not say which union it has joined"));
        }
    }
    Ok(0)
}

/// `gtvp reference …`.
pub async fn reference(api: &Api, command: &ReferenceCommand) -> Result<(), Fault> {
    match command {
        ReferenceCommand::Ls(output) => {
            let rows: Vec<ReferenceRow> = api.get("/v1/references").await?;
            listing(output.output, &rows, REFERENCES)
        }
        ReferenceCommand::Show { name, output } => {
            let manifest: serde_json::Value = api.get(&format!("/v1/references/{}", segment(name))).await?;
            // There is no shorter form of a list of rules.
            let format = match output.output {
                Format::Table | Format::Wide => Format::Yaml,
                format => format,
            };
            value(format, &manifest)
        }
        ReferenceCommand::Accept { of, next, file } => {
            let manifest = file.as_deref().map(|path| read(path, MAX_INPUT)).transpose()?;
            let manifest = manifest.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| {
                invalid(format!("the manifest is not JSON: {e}")).hint("docs/spec/evidence.md has its form")
            })?;
            let wish = ReferenceWish { member: of.as_ref().map(ToString::to_string), next: *next, manifest };
            told(&api.change(Method::POST, "/v1/references", &wish).await?);
            Ok(())
        }
        ReferenceCommand::Retire { name } => {
            told(&api.act(Method::DELETE, &format!("/v1/references/{}", segment(name))).await?);
            Ok(())
        }
    }
}

fn shown(union: &UnionSummary, output: Output) -> Result<(), Fault> {
    match output.output {
        Format::Json | Format::Yaml => value(output.output, union),
        _ => {
            print(&show(union));
            Ok(())
        }
    }
}

fn show(u: &UnionSummary) -> String {
    let mut admits = vec!["hardware TPMs"];
    admits.extend(u.software_tpms.then_some("SOFTWARE TPMs (!)"));
    admits.extend(u.without_tpm.then_some("members WITHOUT a TPM (!)"));
    let mut lines = vec![
        ("name", u.name.clone()),
        ("id", u.id.clone()),
        ("members", u.members.to_string()),
        ("voters", u.voters.join(", ")),
        ("a lost voter", lost(u)),
        (
            "grants",
            u.grants_nothing
                .as_ref()
                .map_or("boxes start, tokens are made".into(), |why| format!("NOTHING NEW (!): {why}")),
        ),
        ("admits", admits.join("\n")),
        ("this one's tpm", u.own_tpm.clone()),
        ("epoch", u.epoch.to_string()),
        ("entries", u.entries.to_string()),
        ("head", u.head.clone()),
    ];
    if let Some(why) = &u.withheld {
        lines.push(("vote", format!("WITHHELD (!): {why}")));
    }
    facts(&lines)
}

fn recovered(r: &Recovery) -> String {
    let none = |names: &[String]| if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    let kept = format!(
        "{} entries, as a majority had them at {}",
        r.entries,
        time(r.head_time.saturating_mul(1000))
    );
    let lost = format!("whatever a majority has decided since then, and as members: {}", none(&r.lost));
    let mut lines = vec![("keeps", kept), ("gives up", lost), ("stay", none(&r.follow))];
    match &r.hash {
        Some(hash) => {
            lines.push(("now", "this member is the union's only voter".into()));
            lines.push(("next", format!("on each that stays: gtvp union recover --follow {hash}")));
        }
        None => lines.push(("now", "nothing was done: gtvp union recover --yes does it".into())),
    }
    facts(&lines)
}

fn departure(d: &Departure) -> String {
    let last = match d.entries {
        0 => "cannot be read".to_owned(),
        n => format!("{n} entries, signed by a majority at {}", time(d.head_time.saturating_mul(1000))),
    };
    let mut lines = vec![("union", d.union.clone()), ("its record", last)];
    if !d.heard.is_empty() {
        lines.push(("others say", d.heard.join("\n")));
    }
    lines.push(("gives up", d.gives_up.join("\n")));
    lines.extend(d.instead.clone().map(|instead| ("better", instead)));
    lines.push(match &d.aside {
        Some(aside) => {
            ("now", format!("this server is in no union; its record is in {aside}, with security's state"))
        }
        None => ("now", "nothing was done: gtvp union leave --force --yes does it".into()),
    });
    facts(&lines)
}

/// What the loss of voters means.
fn lost(u: &UnionSummary) -> String {
    const STOP: &str =
        "stops every change of the union, and after a minute no member starts a box; those that run go on";
    let more = "Three members with a TPM can do without one";
    match (u.voters.len(), u.voters.len().saturating_sub(1) / 2) {
        (0 | 1, _) if u.members <= 1 => {
            "there is no other member. With a second one the union stands while the voter is away".into()
        }
        (0 | 1, _) => {
            let who = u.voters.first().map_or("it", String::as_str);
            format!(
                "{who} votes alone: while it is away nothing of the union changes, and after a minute no other member starts a box; \
                 those that run go on. The others may be away. {more}"
            )
        }
        (_, 0) => format!("{STOP}, until it is back. {more}"),
        (_, 1) => format!("is borne; two: {STOP}, until one is back"),
        (_, n) => format!("is borne, as are {n}; more: {STOP}, until they are back"),
    }
}

const HISTORY: &[Column<HistoryRow>] = &[
    column("ENTRY", |h| h.number.to_string()),
    column("TIME", |h| time(h.time.saturating_mul(1000))),
    column("AUTHOR", |h| h.author.clone()),
    column("WHAT", |h| h.about.clone()),
    wide("ACT", |h| h.act.clone()),
    wide("HASH", |h| h.hash.clone()),
];

const TOKENS: &[Column<TokenRow>] = &[
    column("TOKEN", |t| t.id.chars().take(12).collect()),
    column("ENDS", |t| until(t.expires.saturating_mul(1000))),
    column("MADE BY", |t| t.by.clone()),
    column("FOR THE TPM", |t| t.ek.as_ref().map_or_else(|| "any".into(), |ek| ek.chars().take(12).collect())),
    column("PLATFORM IDENTITY", |t| t.platform_identity.to_string()),
    wide("ID", |t| t.id.clone()),
    wide("ENDS AT", |t| time(t.expires.saturating_mul(1000))),
];

const REFERENCES: &[Column<ReferenceRow>] = &[
    column("NAME", |r| r.name.clone()),
    column("VERSION", |r| r.version.to_string()),
    column("RULES", |r| r.rules.to_string()),
    column("NEXT", |r| r.next.to_string()),
    column("MADE", |r| time(u64::try_from(r.issued).unwrap_or(0).saturating_mul(1000))),
    wide("DIGEST", |r| r.digest.clone()),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lost_voter_means_is_said() {
        let union = |voters: usize, members: u64| UnionSummary {
            name: "lab".into(),
            id: String::new(),
            epoch: 0,
            entries: 1,
            head: String::new(),
            voters: (1..=voters).map(|n| format!("m{n}")).collect(),
            members,
            software_tpms: false,
            without_tpm: false,
            own_tpm: String::new(),
            withheld: None,
            grants_nothing: None,
        };
        assert!(lost(&union(1, 1)).contains("no other member"));
        let two = lost(&union(1, 2));
        assert!(two.contains("m1 votes alone") && two.contains("no other member starts a box"), "{two}");
        assert!(two.contains("The others may be away"), "{two}");
        assert!(lost(&union(2, 2)).starts_with("stops every change"));
        assert!(lost(&union(3, 3)).starts_with("is borne; two: stops"));
        assert!(lost(&union(5, 5)).contains("as are 2"));
    }
}
