//! What was believed of joiners a short time ago, so that nobody is admitted of whom less was seen. In memory: a joiner whose verifier
//! has restarted asks again.

use gtvp_model::union::{Identity, KeyName, RosterEntry};
use gtvp_protocol::hsp::join::{CheckedKeys, CredentialSecret};

/// For how long: an enrolment ends within a minute.
pub const LASTS_MS: u64 = 120_000;
/// Joiners at once; with more, who came first asks again.
const MOST: usize = 64;

#[derive(Debug)]
struct Joiner {
    keys: CheckedKeys,
    since: u64,
    /// Of the credential that was made last for these keys; nobody outside has it, and it is good for one try.
    secret: Option<CredentialSecret>,
    proven: bool,
    evidence: Option<RosterEntry>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Believed(Vec<Joiner>);

impl Believed {
    fn find(&mut self, identity: &Identity, ms: u64) -> Option<&mut Joiner> {
        self.0.retain(|j| ms.saturating_sub(j.since) < LASTS_MS);
        self.0.iter_mut().find(|j| j.keys.identity() == *identity)
    }

    /// Its keys are what they must be.
    pub fn keys(&mut self, keys: &CheckedKeys, ms: u64) {
        let identity = keys.identity();
        self.find(&identity, ms);
        self.0.retain(|j| j.keys.identity() != identity);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(Joiner { keys: keys.clone(), since: ms, secret: None, proven: false, evidence: None });
    }

    /// The keys with this identity, if they were believed.
    pub fn known(&mut self, identity: &Identity, ms: u64) -> Option<CheckedKeys> {
        self.find(identity, ms).map(|j| j.keys.clone())
    }

    /// A credential was made for this AK, by this EK. Says whether these are keys that were believed.
    pub fn credential(&mut self, ek: &[u8], ak: &KeyName, secret: &CredentialSecret, ms: u64) -> bool {
        self.0.retain(|j| ms.saturating_sub(j.since) < LASTS_MS);
        let mut of: Vec<_> =
            self.0.iter_mut().filter(|j| j.keys.ek_public == ek && j.keys.ak == *ak).collect();
        of.iter_mut().for_each(|j| j.secret = Some(secret.clone()));
        !of.is_empty()
    }

    /// The secret of the credential that was made for these keys; once.
    pub fn secret(&mut self, identity: &Identity, ms: u64) -> Option<CredentialSecret> {
        self.find(identity, ms)?.secret.take()
    }

    /// Its AK is in the TPM of its EK, and has certified its TLS key.
    pub fn proven(&mut self, identity: &Identity, ms: u64) {
        if let Some(joiner) = self.find(identity, ms) {
            joiner.proven = true;
        }
    }

    /// Its evidence is good; or is not.
    pub fn evidence(&mut self, of: &RosterEntry, good: bool, ms: u64) {
        if let Some(joiner) = self.find(&of.identity, ms) {
            joiner.evidence = good.then(|| of.clone());
        }
    }

    /// Whether all was believed; if not, what is missing.
    pub fn admits(&mut self, identity: &Identity, ms: u64) -> Result<(), &'static str> {
        let Some(joiner) = self.find(identity, ms) else {
            return Err("its keys were not believed here in the last two minutes");
        };
        if !joiner.proven {
            return Err("it has not proven here that its keys are in the TPM of its endorsement key");
        }
        if joiner.evidence.is_none() {
            return Err("its evidence was not believed here");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gtvp_model::union::{Hardware, KeyName, PlatformIdentity, TpmKind};

    fn keys(n: u8) -> CheckedKeys {
        CheckedKeys {
            kind: TpmKind::Software,
            ek: [n; 32].into(),
            ek_public: vec![n],
            ak: KeyName::sha256(&[n, 1]),
            ak_public: vec![n, 1],
            tls: KeyName::sha256(&[n, 2]),
            spki: [n; 32].into(),
        }
    }

    fn entry(keys: &CheckedKeys) -> RosterEntry {
        let hardware = Hardware::new(1, 1, "").unwrap();
        RosterEntry::new("m".parse().unwrap(), keys.identity(), PlatformIdentity::default(), hardware)
    }

    #[test]
    fn all_three_are_needed_and_not_for_long() {
        let (k, mut b) = (keys(1), Believed::default());
        let id = k.identity();
        assert!(b.admits(&id, 0).is_err());
        b.proven(&id, 0);
        b.evidence(&entry(&k), true, 0);
        assert!(b.admits(&id, 0).is_err(), "nothing counts before the keys");
        b.keys(&k, 10);
        b.evidence(&entry(&k), true, 10);
        assert!(b.admits(&id, 10).unwrap_err().contains("endorsement key"));
        b.proven(&id, 10);
        assert_eq!(b.admits(&id, 10 + LASTS_MS - 1), Ok(()));
        let mut harder = id.clone();
        if let Identity::Tpm { kind, .. } = &mut harder {
            *kind = TpmKind::Hardware(Default::default());
        }
        assert!(b.admits(&harder, 10).is_err(), "not as something better than was seen");
        b.evidence(&entry(&k), false, 20);
        assert!(b.admits(&id, 20).is_err(), "bad evidence takes it back");
        b.evidence(&entry(&k), true, 30);
        assert!(b.admits(&id, 10 + LASTS_MS).is_err(), "too long ago");
    }

    #[test]
    fn many_joiners_are_forgotten_from_the_first_on() {
        let mut b = Believed::default();
        (0..=MOST as u8).for_each(|n| b.keys(&keys(n), 0));
        assert!(b.known(&keys(0).identity(), 0).is_none());
        assert!(b.known(&keys(MOST as u8).identity(), 0).is_some());
        assert_eq!(b.0.len(), MOST);
    }
}
