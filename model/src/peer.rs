//! What an application in a box may ask its member about another box: whether that box's member vouches for it (GTVP §3.3).
//! One line of JSON to `/run/gtvp/attest.sock` in the box, one line back (docs/design/peers.md).

use serde::{Deserialize, Serialize};

use crate::ids::{BadName, BoxName, MemberName};

/// Where a box's processes ask.
pub const SOCKET: &str = "/run/gtvp/attest.sock";
/// Longest question with its end of line: two names, 64 bytes in hexadecimal and JSON's own characters take 300.
pub const MAX_QUESTION: usize = 1024;
/// Longest answer with its end of line: a result of 32 KiB in base64 and some sentences.
pub const MAX_ANSWER: usize = 64 * 1024;
/// Bytes of a nonce: enough that nobody guesses it or meets it twice, and as many as any digest has.
pub const NONCE: std::ops::RangeInclusive<usize> = 16..=64;

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerQuestion {
    /// `MEMBER/BOX`; `BOX` alone is a box of the same member.
    pub peer: String,
    /// What whoever asks has chosen, in hexadecimal: the result is newer than it. [`NONCE`] bytes.
    pub nonce: String,
}

/// Whom a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its member; `None`: the one that is asked.
    pub member: Option<MemberName>,
    /// The box.
    pub name: BoxName,
}

/// A question that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// Not JSON of a question.
    #[error("the question is one line of JSON, {{\"peer\":\"MEMBER/BOX\",\"nonce\":\"HEX\"}}: {0}")]
    NotJson(String),
    /// Longer than any.
    #[error("a question has at most {MAX_QUESTION} bytes")]
    TooLong,
    /// A name that nobody has.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Not a nonce.
    #[error("a nonce is {min} to {max} bytes in hexadecimal", min = NONCE.start(), max = NONCE.end())]
    Nonce,
}

impl PeerQuestion {
    /// The question of a line.
    ///
    /// # Errors
    /// [`BadQuestion`]; what is too long is not looked at.
    pub fn parse(line: &[u8]) -> Result<Self, BadQuestion> {
        if line.len() > MAX_QUESTION {
            return Err(BadQuestion::TooLong);
        }
        let question: Self = serde_json::from_slice(line).map_err(|e| BadQuestion::NotJson(e.to_string()))?;
        question.check()?;
        Ok(question)
    }

    /// Whom it is about.
    ///
    /// # Errors
    /// [`BadQuestion`].
    pub fn check(&self) -> Result<Peer, BadQuestion> {
        let digits = self.nonce.bytes().all(|b| b.is_ascii_hexdigit());
        if !digits || self.nonce.len() % 2 != 0 || !NONCE.contains(&(self.nonce.len() / 2)) {
            return Err(BadQuestion::Nonce);
        }
        Ok(match self.peer.split_once('/') {
            Some((member, name)) => Peer { member: Some(member.parse()?), name: name.parse()? },
            None => Peer { member: None, name: self.peer.parse()? },
        })
    }
}

/// What the member found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerResult {
    /// The attestation result in base64: EAR claims about the other box, by the member that was asked (docs/spec/evidence.md,
    /// "Results"). It can be passed on to whoever trusts that member.
    pub result: String,
    /// `trusted`: there is no result with another verdict.
    pub verdict: String,
    /// The other box's member.
    pub member: String,
    /// The other box.
    #[serde(rename = "box")]
    pub name: String,
    /// Digest of what it was started on.
    pub composition: String,
    /// When the result ends, seconds since 1970-01-01 UTC.
    pub expires: i64,
    /// What was not checked.
    pub not_checked: Vec<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PeerAnswer {
    /// The member vouches for it.
    Vouched(PeerResult),
    /// It does not: why. Nothing is to be concluded about the other box but that.
    Refused {
        /// For people.
        fault: String,
    },
}

impl PeerAnswer {
    /// A refusal, on one line and not too long.
    pub fn refused(why: &str) -> Self {
        let fault = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
        Self::Refused { fault }
    }

    /// As one line.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        if line.len() >= MAX_ANSWER {
            line = serde_json::to_vec(&Self::refused("the answer is too long")).unwrap_or_default();
        }
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_bounded_and_names_a_box() {
        let nonce = "0a".repeat(16);
        let line = |peer: &str, nonce: &str| format!(r#"{{"peer":"{peer}","nonce":"{nonce}"}}"#);
        let parsed =
            |peer: &str| PeerQuestion::parse(line(peer, &nonce).as_bytes()).map(|q| q.check().unwrap());
        let web: BoxName = "web".parse().unwrap();
        assert_eq!(
            parsed("m2/web").unwrap(),
            Peer { member: Some("m2".parse().unwrap()), name: web.clone() }
        );
        assert_eq!(parsed("web").unwrap(), Peer { member: None, name: web });
        for bad in ["", "/", "m2/", "/web", "m2/web/x", "M2/web", "m2/we b", "../web", &"a".repeat(64)] {
            assert!(matches!(parsed(bad), Err(BadQuestion::Name(_))), "{bad}");
        }
        for bad in ["", "0a", &"0a".repeat(15), &"0a".repeat(65), &"zz".repeat(16), &format!("{nonce}0")] {
            assert_eq!(PeerQuestion::parse(line("web", bad).as_bytes()), Err(BadQuestion::Nonce), "{bad}");
        }
        let long = line("web", &"0a".repeat(600));
        assert_eq!(PeerQuestion::parse(long.as_bytes()), Err(BadQuestion::TooLong));
        for bad in ["", "{}", "[]", "nonsense", r#"{"peer":"web","nonce":"00","more":1}"#] {
            assert!(matches!(PeerQuestion::parse(bad.as_bytes()), Err(BadQuestion::NotJson(_))), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_one_line_and_bounded() {
        let said = PeerAnswer::refused("no\nsuch box");
        assert_eq!(said.line(), b"{\"fault\":\"no such box\"}\n");
        let mut result = PeerResult {
            result: "AAAA".into(),
            verdict: "trusted".into(),
            member: "m2".into(),
            name: "web".into(),
            composition: "00".into(),
            expires: 1,
            not_checked: vec!["policy".into()],
        };
        let line = PeerAnswer::Vouched(result.clone()).line();
        assert_eq!(serde_json::from_slice::<PeerAnswer>(&line).unwrap(), PeerAnswer::Vouched(result.clone()));
        result.result = "A".repeat(MAX_ANSWER);
        let line = PeerAnswer::Vouched(result).line();
        assert!(line.len() < MAX_ANSWER && line.starts_with(b"{\"fault\""));
    }
}
