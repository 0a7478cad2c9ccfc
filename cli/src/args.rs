//! The command line's words. What each does is in `commands/` and `lab/`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gtvp_model::boxspec::{Need, Publish};
use gtvp_model::digest::Digest;
use gtvp_model::ids::{BoxName, MemberName, UnionName};
use gtvp_model::token::TokenId;
use gtvp_model::union::{EkDigest, Whom};
use gtvp_model::units::Bytes;

macro_rules! exit_codes {
    () => {
        "\
Exit status:
  0    it worked
  1    it did not; the reason stands on standard error
  2    the command line cannot be understood
  125  run, exec and shell: GTVP could not do it (any other status is the application's own; 128+N when signal N ended it)
  130  run: interrupted with Ctrl-C (143 by SIGTERM), and the application has no exit status of its own"
    };
}

/// GTVP joins Linux servers into one trusted union; applications run in lazy boxes: virtual machines put together, when needed, from
/// signed operating-system components.
#[derive(Debug, Parser)]
#[command(
    name = "gtvp", version, about = "Applications in lazy boxes, on a trusted union of servers", long_about, max_term_width = 110,
    subcommand_required = true, arg_required_else_help = true,
    after_help = concat!("Examples:
  gtvp run --name web --needs nginx --publish 8080:80 -- nginx -g 'daemon off;'
  gtvp box ls
  gtvp exec web -- nginx -v
  gtvp doctor

", exit_codes!()),
)]
pub struct Cli {
    /// Which member to talk to, by the path of its API socket.
    #[arg(long, global = true, env = "GTVP_SOCKET", value_name = "PATH", help_heading = "Which member")]
    pub socket: Option<PathBuf>,
    /// Which member of a lab to talk to: m1, or LAB/m1.
    #[arg(long, global = true, env = "GTVP_MEMBER", value_name = "NAME", help_heading = "Which member")]
    pub member: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with everything.
    Wide,
    /// For programs; a listing is an array.
    Json,
    /// The same as YAML.
    Yaml,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an application in a new lazy box.
    Run(Run),
    /// List, show and change boxes.
    #[command(subcommand, alias = "boxes", arg_required_else_help = true)]
    Box(BoxCommand),
    /// Run a command in a running box.
    Exec(Exec),
    /// Open a shell in a running box: bash where it is, else sh.
    Shell(Shell),
    /// List, show and import components.
    #[command(subcommand, alias = "components", arg_required_else_help = true)]
    Component(ComponentCommand),
    /// List, boot and remove templates: booted machines that boxes start from.
    #[command(subcommand, alias = "templates", arg_required_else_help = true)]
    Template(TemplateCommand),
    /// Show this member, and list those of its union.
    #[command(subcommand, alias = "members", arg_required_else_help = true)]
    Member(MemberCommand),
    /// Begin a union of servers, and show it.
    #[command(subcommand, arg_required_else_help = true)]
    Union(UnionCommand),
    /// Make and end join tokens.
    #[command(subcommand, alias = "tokens", arg_required_else_help = true)]
    Token(TokenCommand),
    /// Join a union with a token of it.
    Join(Join),
    /// List, show and change what counts as healthy.
    #[command(subcommand, alias = "references", arg_required_else_help = true)]
    Reference(ReferenceCommand),
    /// Check evidence from a file, offline.
    Verify(Verify),
    /// Show what happened on the member.
    Events(Events),
    /// Check this member, and say what to do about what is missing.
    Doctor(Doctor),
    /// List, show and cancel operations.
    #[command(subcommand, alias = "operations", arg_required_else_help = true)]
    Operation(OperationCommand),
    /// Members on this machine, each in a network namespace of its own, to try things out.
    #[command(subcommand, arg_required_else_help = true)]
    Lab(LabCommand),
    /// Print the completions of a shell.
    Completions(Completions),
    /// Write the man pages.
    Man(Man),
    /// Print the version.
    Version(Version),
}

/// Run an application in a new lazy box. Without --detach its output is yours and so is its exit status; Ctrl-C ends it and removes the
/// box. A box whose application ended by itself stays, stopped, unless --rm.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp run --name web --needs nginx --publish 8080:80 -- nginx -g 'daemon off;'
  gtvp run --needs python3 --memory 384M --rm -- python3 -c 'print(6*7)'
  gtvp run --detach --name db --needs redis-server --publish 6379:6379 -- redis-server --protected-mode no
  gtvp run -f web.toml                 # the same as a file; flags override it

A file holds the same words:
  name = \"web\"
  needs = [\"nginx\"]
  command = [\"nginx\", \"-g\", \"daemon off;\"]
  publish = [\"8080:80\"]

Exit status: the application's own, 128+N when signal N ended it; 125 when GTVP could not run it; 130 when interrupted.")]
pub struct Run {
    /// The box's name; made up when absent.
    #[arg(long)]
    pub name: Option<BoxName>,
    /// What the application needs: packages, separated by commas or repeated. NAME or deb:NAME=VERSION.
    #[arg(long, value_delimiter = ',', value_name = "PACKAGE")]
    pub needs: Vec<Need>,
    /// Memory, for example 512M [default: 512M].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// Virtual processors [default: 1].
    #[arg(long, value_name = "N")]
    pub cpus: Option<u16>,
    /// Size of the writable layer; it takes only what is written [default: 8G].
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Bytes>,
    /// Publish a port of the box on the member: HOST:BOX or HOST:BOX/udp. Repeatable.
    #[arg(long, short, value_name = "HOST:BOX", value_delimiter = ',')]
    pub publish: Vec<Publish>,
    /// Set an environment variable of the application. Repeatable.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// User of the application, by name or number [default: root].
    #[arg(long, short)]
    pub user: Option<String>,
    /// Working directory of the application [default: /].
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Boot it at each start, and never start it from a template (gtvp template --help).
    #[arg(long)]
    pub cold: bool,
    /// Return when it is ready, and leave it running.
    #[arg(long, short)]
    pub detach: bool,
    /// Remove the box when its application has ended.
    #[arg(long, conflicts_with = "detach")]
    pub rm: bool,
    /// Read the box from a TOML file; - is standard input.
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print no progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// The application and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp box ls -o json
  gtvp box show web
  gtvp box logs -f web
  gtvp box stop web && gtvp box rm web")]
pub enum BoxCommand {
    /// List boxes.
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  gtvp box ls
  gtvp box ls -o wide
  gtvp box ls -o json | jq -r '.[] | select(.state==\"running\") | .name'"
    )]
    Ls(Output),
    /// Show a box: what was asked for, where it is, which components were linked, when and because of which path.
    #[command(after_help = "Examples:
  gtvp box show web
  gtvp box show web -o json | jq '.linked[].component'")]
    Show {
        /// The box.
        name: BoxName,
        #[command(flatten)]
        output: Output,
    },
    /// Print what a box's application wrote, or its kernel's console.
    #[command(after_help = "Examples:
  gtvp box logs web
  gtvp box logs -f --tail 20 web
  gtvp box logs --console web")]
    Logs(Logs),
    /// Write a running box's evidence, which `gtvp verify` checks anywhere: its member's, its vTPM's quote, and what was linked.
    #[command(after_help = "Examples:
  gtvp box attest web > evidence.cbor
  gtvp box attest web --explain")]
    Attest {
        /// The box.
        name: BoxName,
        #[command(flatten)]
        words: Attest,
    },
    /// Stop a box: its application gets SIGTERM, and after the grace the machine ends.
    #[command(after_help = "Examples:
  gtvp box stop web
  gtvp box stop --grace 60 db")]
    Stop {
        /// The boxes.
        #[arg(required = true)]
        names: Vec<BoxName>,
        /// Seconds that the application gets.
        #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = seconds)]
        grace: f64,
    },
    /// Start a stopped box again; what it wrote is still there.
    #[command(after_help = "Examples:\n  gtvp box start web")]
    Start {
        /// The boxes.
        #[arg(required = true)]
        names: Vec<BoxName>,
        /// Print no progress.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Halt a box's processors.
    #[command(after_help = "Examples:\n  gtvp box pause web")]
    Pause {
        /// The boxes.
        #[arg(required = true)]
        names: Vec<BoxName>,
    },
    /// Let a paused box go on.
    #[command(after_help = "Examples:\n  gtvp box resume web")]
    Resume {
        /// The boxes.
        #[arg(required = true)]
        names: Vec<BoxName>,
    },
    /// Remove a box with everything that it wrote.
    #[command(
        visible_alias = "remove",
        after_help = "Examples:
  gtvp box rm web
  gtvp box rm --force web db"
    )]
    Rm {
        /// The boxes.
        #[arg(required = true)]
        names: Vec<BoxName>,
        /// Also when it runs.
        #[arg(long, short)]
        force: bool,
    },
    /// Change a box: applied live where it can be, else said and applied at its next start.
    #[command(after_help = "Examples:
  gtvp box set web --memory 512M
  gtvp box set web --cpus 2")]
    Set {
        /// The box.
        name: BoxName,
        /// New memory, for example 512M.
        #[arg(long, value_name = "SIZE", required_unless_present = "cpus")]
        memory: Option<Bytes>,
        /// New number of virtual processors.
        #[arg(long, value_name = "N")]
        cpus: Option<u16>,
        #[command(flatten)]
        output: Output,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // A day is longer than any application takes to end.
        Ok(n) if (0.0..=86_400.0).contains(&n) => Ok(n),
        _ => Err("write seconds, from 0 to 86400".into()),
    }
}

#[derive(Debug, Args)]
pub struct Logs {
    /// The box.
    pub name: BoxName,
    /// Go on as more is written, until the box ends.
    #[arg(long, short)]
    pub follow: bool,
    /// The kernel's console instead of what the application wrote.
    #[arg(long)]
    pub console: bool,
    /// Only this many lines from the end.
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<u64>,
}

/// Run a command in a running box, beside its application. With a terminal when yours is one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp exec web -- nginx -v
  gtvp exec web -- sh -c 'ps aux | head'
  gtvp exec --user www-data --env DEBUG=1 web -- id
  echo hello | gtvp exec web -- cat

Exit status: the command's own, 128+N when signal N ended it; 125 when GTVP could not run it.")]
pub struct Exec {
    /// Ask for a terminal even if yours is none.
    #[arg(long, short, conflicts_with = "no_tty")]
    pub tty: bool,
    /// Ask for no terminal even if yours is one.
    #[arg(long, short = 'T')]
    pub no_tty: bool,
    /// Pass standard input on. This is always done unless --no-stdin.
    #[arg(long, short, conflicts_with = "no_stdin")]
    pub interactive: bool,
    /// Leave standard input alone.
    #[arg(long)]
    pub no_stdin: bool,
    /// User, by name or number [default: root].
    #[arg(long, short)]
    pub user: Option<String>,
    /// Working directory [default: /].
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Set an environment variable. Repeatable.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// The box.
    pub name: BoxName,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Open a shell in a running box: bash where it is, else sh.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp shell web
  gtvp shell --user www-data web")]
pub struct Shell {
    /// User, by name or number [default: root].
    #[arg(long, short)]
    pub user: Option<String>,
    /// The box.
    pub name: BoxName,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp component ls
  gtvp component show deb:nginx
  gtvp component import deb:nginx=1.22.1-9")]
pub enum ComponentCommand {
    /// List the components of the store.
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  gtvp component ls
  gtvp component ls -o json | jq -r '.[].reference'"
    )]
    Ls(Output),
    /// Show a component, by its reference or a unique beginning of its digest.
    #[command(after_help = "Examples:
  gtvp component show deb:nginx
  gtvp component show 3f9a")]
    Show {
        /// Reference, or the beginning of a digest.
        reference: String,
        #[command(flatten)]
        output: Output,
    },
    /// Import a component into the store now.
    #[command(after_help = "Examples:
  gtvp component import deb:nginx
  gtvp component import deb:nginx=1.22.1-9")]
    Import {
        /// deb:NAME or deb:NAME=VERSION.
        need: Need,
        #[command(flatten)]
        output: Output,
        /// Print no progress.
        #[arg(long, short)]
        quiet: bool,
    },
}

/// A template is a machine that this member booted up to the point where it would hear which box it is, and saved. A box that starts
/// from one need not boot. The first start of a box of a new shape (memory, processors, kernel) boots, and a template is made after it.
/// What boxes that start from one template have in common is written in SECURITY.md; `gtvp run --cold` boots.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp template ls
  gtvp template build --memory 1G
  gtvp template rm 3f9a")]
pub enum TemplateCommand {
    /// List templates.
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  gtvp template ls
  gtvp template ls -o json | jq -r '.[].digest'"
    )]
    Ls(Output),
    /// Boot a template now, for boxes of this memory and so many processors.
    #[command(after_help = "Examples:
  gtvp template build
  gtvp template build --memory 1G --cpus 2")]
    Build {
        /// Memory of the boxes, for example 512M [default: 512M].
        #[arg(long, value_name = "SIZE")]
        memory: Option<Bytes>,
        /// Virtual processors of the boxes [default: 1].
        #[arg(long, value_name = "N")]
        cpus: Option<u16>,
        #[command(flatten)]
        output: Output,
        /// Print no progress.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove templates. Boxes that were started from them run on.
    #[command(visible_alias = "remove", after_help = "Examples:\n  gtvp template rm 3f9a")]
    Rm {
        /// Their digests, or unique beginnings of them.
        #[arg(required = true, value_name = "DIGEST")]
        digests: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp union init --name lab
  gtvp union show
  gtvp union history
  gtvp union leave")]
pub enum UnionCommand {
    /// Begin a union whose first member this server is. What it lets in beside members with a hardware TPM is said here, once.
    #[command(after_help = "Examples:
  gtvp union init --name prod
  gtvp union init --name lab --allow-software-tpm")]
    Init {
        /// The union's name: lower-case letters, digits and '-'.
        #[arg(long)]
        name: UnionName,
        /// Let members in whose TPM is software: root of such a server can make it say anything.
        #[arg(long)]
        allow_software_tpm: bool,
        /// Let members in that have no TPM: they can prove nothing of what they booted.
        #[arg(long)]
        allow_no_tpm: bool,
        /// How often each member proves itself anew: 2s, 1m [default: 30s].
        #[arg(long, value_name = "TIME", value_parser = period)]
        attest_every: Option<Duration>,
        /// This server's TPM is hardware by your word, where no vendor's certificate vouches for it: its endorsement key, as `gtvp member show`
        /// has it. Every listing says so.
        #[arg(long, value_name = "FINGERPRINT")]
        ek: Option<EkDigest>,
        #[command(flatten)]
        output: Output,
    },
    /// Show the union that this server is in.
    #[command(after_help = "Examples:
  gtvp union show
  gtvp union show -o json | jq -r .head")]
    Show(Output),
    /// Show the union's record: every entry, who wrote it and what it did, oldest first.
    #[command(after_help = "Examples:
  gtvp union history
  gtvp union history -o json | jq -r '.[] | select(.act==\"admitted\") | .about'")]
    History(Output),
    /// Recover a union whose voters are lost: this member becomes the only voter. Without --yes it says what that gives up, and does nothing.
    /// The administrators of the other members say on each of them that they follow.
    #[command(after_help = "Examples:
  gtvp union recover
  gtvp union recover --yes --reason 'm2 and m3 have burnt'
  gtvp union recover --follow 5f0c…       # on each other member")]
    Recover {
        /// Do it.
        #[arg(long)]
        yes: bool,
        /// Why, in a sentence: it goes into the record.
        #[arg(long, default_value = "")]
        reason: String,
        /// Give this member up too, beside the voters that cannot be reached. Repeatable.
        #[arg(long, value_name = "MEMBER")]
        lost: Vec<MemberName>,
        /// Also where a majority of the voters can be reached: they have promised different entries, and the record has not gone on for
        /// a minute.
        #[arg(long)]
        stands_still: bool,
        /// Let the entry with this hash, which another member's recovery has printed, replace the voters.
        #[arg(long, value_name = "HASH", conflicts_with_all = ["yes", "lost", "reason", "stands_still"])]
        follow: Option<Digest>,
        #[command(flatten)]
        output: Output,
    },
    /// Leave the union: this server is a member no more. Its boxes run on.
    #[command(after_help = "Examples:
  gtvp union leave
  gtvp union leave --force            # what that gives up; does nothing
  gtvp union leave --force --yes")]
    Leave(Leave),
}

#[derive(Debug, Args)]
pub struct Leave {
    /// Leave without a majority's word: for a server that was given up by a recovery, removed while it was away, or whose union is lost.
    /// Without --yes it says what that gives up, and does nothing.
    #[arg(long)]
    pub force: bool,
    /// Do it.
    #[arg(long, requires = "force")]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp token create
  gtvp token create --ek 3f9a… --expires 10m
  gtvp token end 5c1d…")]
pub enum TokenCommand {
    /// Make a token that lets one server in, once. It is printed now and never again: whoever has it and a server that the union admits can
    /// use it.
    #[command(after_help = "Examples:
  gtvp token create
  gtvp token create --ek $(ssh m2 gtvp member show -o json | jq -r .tpm.ek)
  TOKEN=$(gtvp token create --expires 10m)")]
    Create {
        /// Only the server whose TPM has this endorsement key may use it: `gtvp member show` there shows it. Where no vendor's certificate
        /// vouches for that TPM, it is hardware by your word: every listing says "pinned".
        #[arg(long, value_name = "FINGERPRINT")]
        ek: Option<EkDigest>,
        /// How long it is good: 10m, 1h, 2d [default: 1h].
        #[arg(long, value_name = "TIME", value_parser = span)]
        expires: Option<Duration>,
        /// The platform identity that its user gets, 0 (lowest) to 15 [default: 8].
        #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=15))]
        platform_identity: Option<u8>,
        #[command(flatten)]
        output: Output,
    },
    /// List the tokens that can still be used: when they end and who made them, never their secrets.
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  gtvp token ls
  gtvp token ls -o json | jq -r '.[].id' | xargs -n1 gtvp token end"
    )]
    Ls(Output),
    /// End a token that nobody has used.
    #[command(after_help = "Examples:
  gtvp token end 5c1d…")]
    End {
        /// Its id: `gtvp token ls -o wide` and `gtvp token create -o json` show it.
        id: TokenId,
    },
}

/// Join the union that the token is of: this server proves to a member what it has booted, the member proves the same to it, and the
/// union's record gets one entry more. What fails leaves this server as it was, and can be tried again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp join gtvp-join-…
  gtvp join - < token.txt")]
pub struct Join {
    /// From `gtvp token create` on a member; - reads it from standard input.
    pub token: String,
    #[command(flatten)]
    pub output: Output,
    /// Print no progress.
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp reference ls
  gtvp reference accept m2
  gtvp reference accept --file debian-13.json
  gtvp reference retire debian-12")]
pub enum ReferenceCommand {
    /// List the reference values that count: what is healthy.
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  gtvp reference ls"
    )]
    Ls(Output),
    /// Show one manifest of reference values, each rule of it.
    #[command(after_help = "Examples:
  gtvp reference show founder")]
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Have what a member's last evidence shows, and nothing knows, count as healthy: after having looked at it with `gtvp member show`.
    #[command(
        group = clap::ArgGroup::new("what").required(true),
        after_help = "Examples:
  gtvp reference accept m2
  gtvp reference accept m2 --next
  gtvp reference accept --file debian-13.json"
    )]
    Accept {
        /// The member, or who asked to join by this name and was refused; or its endorsement key, where a name does not say which.
        #[arg(group = "what", value_name = "MEMBER")]
        of: Option<Whom>,
        /// It will count when the member has started again: for an update that is about to be made.
        #[arg(long, requires = "of")]
        next: bool,
        /// A manifest, JSON; - reads it from standard input.
        #[arg(long, group = "what", value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Have a manifest count no more. Members whose health rests on it alone lose their verdict.
    #[command(after_help = "Examples:
  gtvp reference retire debian-12")]
    Retire {
        /// Its name.
        name: String,
    },
}

fn span(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time: a number and s, m, h or d");
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| bad())?;
    let all = number.checked_mul(seconds).filter(|s| (1..=365 * 86_400).contains(s));
    all.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is not between 1s and 365d"))
}

fn period(text: &str) -> Result<Duration, String> {
    let period = span(text)?;
    match period.as_secs() {
        1..=3600 => Ok(period),
        _ => Err("members prove themselves at least once an hour".into()),
    }
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp member ls
  gtvp member show
  gtvp member attest > evidence.cbor")]
pub enum MemberCommand {
    /// List the members of the union: verdict, TPM class, platform identity.
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  gtvp member ls
  gtvp member ls -o json | jq -r '.[] | select(.verdict!=\"trusted\") | .name'"
    )]
    Ls(Output),
    /// Show this member: its domains, its verdict and what that did not check, what its machines run on. With a name, a member of the
    /// union: each check of its last appraisal, and the entry that failed.
    #[command(after_help = "Examples:
  gtvp member show
  gtvp member show m2
  gtvp --member m2 member show -o json | jq '.domains[] | {domain, pid, restarts}'")]
    Show {
        /// A member of the union [default: the one that is asked].
        name: Option<MemberName>,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a member from the union by force: every channel with it ends, and what it held is told.
    #[command(after_help = "Examples:
  gtvp member evict m3 --reason 'stolen'")]
    Evict {
        /// The member.
        name: MemberName,
        /// Why, in a sentence: it goes into the record.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Show what the union's record says about a member, one that has gone too.
    #[command(after_help = "Examples:
  gtvp member history m3")]
    History {
        /// The member.
        name: MemberName,
        #[command(flatten)]
        output: Output,
    },
    /// Have this member leave the union. Its boxes run on.
    #[command(after_help = "Examples:
  gtvp --member m3 member leave
  gtvp --member m3 member leave --force   # what that gives up; does nothing")]
    Leave(Leave),
    /// Write a member's evidence, which `gtvp verify` checks anywhere: its TPM's quote, and the logs of what was measured. Of another member
    /// it is asked for over the channel with it, and is fresh.
    #[command(after_help = "Examples:
  gtvp member attest > evidence.cbor
  gtvp member attest --nonce $(openssl rand -hex 32) > evidence.cbor
  gtvp member attest m2 | gtvp verify -
  gtvp member attest --explain")]
    Attest {
        /// A member of the union [default: the one that is asked].
        name: Option<MemberName>,
        #[command(flatten)]
        words: Attest,
    },
}

#[derive(Debug, Args)]
// Without the group that would have its name: a subcommand of that name has one.
#[group(skip)]
pub struct Attest {
    /// What the TPM's signature is to cover, 16 to 64 bytes in hexadecimal: whoever chose it knows that the evidence is no older
    /// [default: 32 random bytes].
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    pub nonce: Option<Nonce>,
    /// Print the evidence decoded: the TPM, its clock, each entry of each log, and what is not proven of it.
    #[arg(long)]
    pub explain: bool,
}

/// Check evidence from a file: who signed it, and that its logs are what its TPM has seen. Needs no member, no network and nothing but the file;
/// so whether it is trusted it cannot say: only a member that knows the TPM can. Ends with 1 if anything does not hold.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp verify evidence.cbor
  gtvp verify evidence.cbor --roots /etc/gtvp/ek-roots
  gtvp verify evidence.cbor --nonce 3f9a…
  gtvp member attest | gtvp verify - -o json")]
pub struct Verify {
    /// The file, or - for standard input.
    pub file: PathBuf,
    /// Check the TPM's certificate with the roots in this folder, PEM or DER, one file or more.
    #[arg(long, value_name = "DIR")]
    pub roots: Option<PathBuf>,
    /// The nonce that the evidence must answer: then it is no older than the nonce.
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    pub nonce: Option<Nonce>,
    #[command(flatten)]
    pub output: Output,
}

/// A nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(pub Vec<u8>);

fn nonce(text: &str) -> Result<Nonce, String> {
    use gtvp_appraisal::file::NONCE;
    use gtvp_model::hex::unhex;
    unhex(text).filter(|b| NONCE.contains(&b.len())).map(Nonce).ok_or_else(|| {
        format!("a nonce is {} to {} bytes, each as two digits of hexadecimal", NONCE.start(), NONCE.end())
    })
}

/// Show what happened on the member.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp events
  gtvp events -f
  gtvp events --tail 20 -o json")]
pub struct Events {
    /// Go on as more happens.
    #[arg(long, short)]
    pub follow: bool,
    /// Only events after this number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub after: u64,
    /// Only this many from the end.
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub tail: Option<u64>,
    #[command(flatten)]
    pub output: Output,
}

/// Check this member, and say what to do about what is missing. Ends with 1 when something failed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp doctor
  gtvp doctor -o json | jq '.[] | select(.status==\"failed\")'")]
pub struct Doctor {
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp operation ls
  gtvp operation show ID
  gtvp operation cancel ID")]
pub enum OperationCommand {
    /// List operations.
    #[command(visible_alias = "list", after_help = "Examples:\n  gtvp operation ls -o wide")]
    Ls(Output),
    /// Show an operation.
    #[command(after_help = "Examples:\n  gtvp operation show ID -o json")]
    Show {
        /// Its id.
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Cancel an operation, and wait until it has ended.
    #[command(after_help = "Examples:\n  gtvp operation cancel ID")]
    Cancel {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  gtvp lab up
  gtvp lab up --members 3 --name test
  gtvp lab ls
  gtvp lab down --purge")]
pub enum LabCommand {
    /// Start a lab: members on this machine, each in a network namespace of its own. Repairs one that is up in part.
    #[command(after_help = "Examples:
  gtvp lab up
  gtvp lab up --members 3 --name test --dir /srv/gtvp-lab")]
    Up(LabUp),
    /// End a lab: its boxes, its members, its networks. What the members keep stays, unless --purge.
    #[command(after_help = "Examples:
  gtvp lab down
  gtvp lab down --name test --purge")]
    Down(LabDown),
    /// List the members of every lab.
    #[command(visible_alias = "list", after_help = "Examples:\n  gtvp lab ls -o json")]
    Ls(Output),
    /// Keep one member running (what systemd does on a server).
    #[command(hide = true)]
    Keep {
        /// The member's run directory.
        #[arg(long)]
        run: PathBuf,
        /// gtvpd.
        #[arg(long)]
        gtvpd: PathBuf,
        /// Network namespace.
        #[arg(long)]
        netns: String,
    },
}

#[derive(Debug, Args)]
pub struct LabUp {
    /// How many members.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=crate::lab::MAX_MEMBERS as i64))]
    pub members: u8,
    /// The lab's name.
    #[arg(long, default_value = "lab")]
    pub name: MemberName,
    /// Where the members keep what they keep [default: /var/lib/gtvp/lab/NAME].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct LabDown {
    /// The lab's name.
    #[arg(long, default_value = "lab")]
    pub name: MemberName,
    /// Where the members keep what they keep, if the lab is down already [default: /var/lib/gtvp/lab/NAME].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Also remove what the members keep: components, boxes, keys.
    #[arg(long)]
    pub purge: bool,
}

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp completions bash > /etc/bash_completion.d/gtvp
  gtvp completions zsh > /usr/share/zsh/vendor-completions/_gtvp
  gtvp completions fish > ~/.config/fish/completions/gtvp.fish")]
pub struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    pub shell: CompletionShell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// Write the man pages: one for each command into a directory, or the first one to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gtvp man /usr/local/share/man/man1
  gtvp man | man -l -")]
pub struct Man {
    /// Where to write them.
    pub dir: Option<PathBuf>,
}

/// Print the version.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gtvp version")]
pub struct Version {}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_can_be_parsed() {
        super::Cli::command().debug_assert();
    }
}
