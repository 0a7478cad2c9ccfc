//! The member's keys in the TPM: made once, saved wrapped, loaded again after each start and reset. It signs nothing.

use std::path::Path;

use gtvp_appraisal::ek::stacked;

use super::client::{Client, TpmError};
use super::codes::{Rc, handle};
use super::commands::{Loaded, MAX_CERTIFICATE, Wrapped};
use super::saved::{self, Hex, SavedError, SavedKeys};
use super::templates::{self, EkKind, is_made_from};

/// What other members know this one's TPM by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Which endorsement key.
    pub ek_kind: EkKind,
    /// Its public area (contents of TPM2B_PUBLIC).
    pub ek_public: Vec<u8>,
    /// Its certificate (DER, as it lies in the TPM), where the vendor put one, and behind it those of its chain that are there.
    pub ek_certificate: Option<Vec<u8>>,
    /// The attestation key's public area.
    pub ak_public: Vec<u8>,
    /// The TLS identity key's public area.
    pub tls_public: Vec<u8>,
}

/// The keys that stay loaded.
#[derive(Debug)]
pub struct Keys {
    /// The attestation key.
    pub ak: Loaded,
    /// The TLS identity key.
    pub tls: Loaded,
    /// All public parts.
    pub identity: Identity,
}

impl Keys {
    /// Loads the keys saved in `folder`; makes and saves them when there are none.
    pub fn load_or_make(client: &mut Client, folder: &Path) -> Result<Self, TpmError> {
        let saved = match saved::read(folder)? {
            Some(saved) => saved,
            None => {
                let made = make(client)?;
                saved::write(folder, &made)?;
                made
            }
        };
        load(client, &saved).map_err(|e| match e {
            TpmError::Refused { rc, .. } if rc.base() == Rc::INTEGRITY => SavedError::OtherTpm.into(),
            other => other,
        })
    }
}

/// Runs `use_it` with the parent of our keys, which is there only for this: a storage key of the endorsement hierarchy. Of that
/// hierarchy and not of the owner's, because a TPM hides its counters and its firmware's version in what other keys sign (Part 1
/// §36.7), and verifiers want to know them.
fn with_parent<T>(
    client: &mut Client,
    use_it: impl FnOnce(&mut Client, u32) -> Result<T, TpmError>,
) -> Result<T, TpmError> {
    let parent = client.create_primary(handle::ENDORSEMENT, &templates::storage())?;
    let result = use_it(client, parent.handle);
    let flushed = client.flush(parent.handle);
    let value = result?;
    flushed.map(|()| value)
}

fn make(client: &mut Client) -> Result<SavedKeys, TpmError> {
    let (ak, tls) = with_parent(client, |client, parent| {
        let ak = made(client.create(parent, &templates::attestation())?, &templates::attestation())?;
        let tls = made(client.create(parent, &templates::tls())?, &templates::tls())?;
        Ok((ak, tls))
    })?;
    let (ek_kind, ek_certificate) = endorsement(client)?;
    let ek = client.create_primary(handle::ENDORSEMENT, &templates::endorsement(ek_kind))?;
    client.flush(ek.handle)?;
    if !is_made_from(&ek.public, &templates::endorsement(ek_kind)) {
        return Err(TpmError::Untrue { command: "CreatePrimary", why: "the key is of another template" });
    }
    Ok(SavedKeys {
        version: 1,
        ek_kind,
        ek_public: Hex(ek.public),
        ek_certificate: ek_certificate.map(Hex),
        ak_public: Hex(ak.public),
        ak_private: Hex(ak.private),
        tls_public: Hex(tls.public),
        tls_private: Hex(tls.private),
    })
}

fn made(key: Wrapped, template: &[u8]) -> Result<Wrapped, TpmError> {
    if is_made_from(&key.public, template) {
        Ok(key)
    } else {
        Err(TpmError::Untrue { command: "Create", why: "the key is of another template" })
    }
}

/// The endorsement key that the vendor vouches for; ECC where it vouches for both or none.
fn endorsement(client: &mut Client) -> Result<(EkKind, Option<Vec<u8>>), TpmError> {
    for (kind, index) in
        [(EkKind::EccP256, handle::EK_CERTIFICATE_ECC), (EkKind::Rsa2048, handle::EK_CERTIFICATE_RSA)]
    {
        match client.nv_read(index, MAX_CERTIFICATE) {
            Ok(Some(certificate)) => {
                let chain = chain(client)?;
                return Ok((kind, Some(with_chain(certificate, &chain))));
            }
            // One that may not be read is of no more use than none; that there is none is shown.
            Ok(None) | Err(TpmError::Refused { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok((EkKind::EccP256, None))
}

/// The certificates between the endorsement key's and what its vendor has published, where they were made on the die and so are nowhere
/// else: one behind the other, over as many indices as they need (EK Credential Profile §2.2.1.5.2).
fn chain(client: &mut Client) -> Result<Vec<u8>, TpmError> {
    let mut chain = Vec::new();
    for index in handle::EK_CHAIN {
        match client.nv_read(index, MAX_CERTIFICATE) {
            Ok(Some(part)) => chain.extend(part),
            Ok(None) | Err(TpmError::Refused { .. }) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(chain)
}

/// As many of them as other members take with it. They are believed by nobody for lying there.
fn with_chain(certificate: Vec<u8>, chain: &[u8]) -> Vec<u8> {
    let more = stacked(chain);
    // A certificate in TPM 1.2's wrapping has no chain.
    let [own] = stacked(&certificate)[..] else { return certificate };
    if more.is_empty() {
        return certificate;
    }
    let mut all = own.to_vec();
    for one in more {
        if all.len() + one.len() <= MAX_CERTIFICATE {
            all.extend(one);
        }
    }
    all
}

fn load(client: &mut Client, saved: &SavedKeys) -> Result<Keys, TpmError> {
    let wrapped = |public: &Hex, private: &Hex, template: Vec<u8>| {
        let key = Wrapped { public: public.0.clone(), private: private.0.clone() };
        // The file is this domain's own; a key of another kind in it would sign what it must not.
        if is_made_from(&key.public, &template) { Ok(key) } else { Err(SavedError::Damaged) }
    };
    let ak = wrapped(&saved.ak_public, &saved.ak_private, templates::attestation())?;
    let tls = wrapped(&saved.tls_public, &saved.tls_private, templates::tls())?;
    let (ak, tls) =
        with_parent(client, |client, parent| Ok((client.load(parent, &ak)?, client.load(parent, &tls)?)))?;
    let identity = Identity {
        ek_kind: saved.ek_kind,
        ek_public: saved.ek_public.0.clone(),
        ek_certificate: saved.ek_certificate.as_ref().map(|c| c.0.clone()),
        ak_public: ak.public.clone(),
        tls_public: tls.public.clone(),
    };
    Ok(Keys { ak, tls, identity })
}

/// Activates a credential for the attestation key: the endorsement key is there only for this.
pub fn activate(client: &mut Client, keys: &Keys, blob: &[u8], secret: &[u8]) -> Result<Vec<u8>, TpmError> {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| TpmError::Unfit("the system gives no random numbers"))?;
    let ek = client.create_primary(handle::ENDORSEMENT, &templates::endorsement(keys.identity.ek_kind))?;
    let activated = client.endorsement_session(&nonce).and_then(|session| {
        let activated = client.activate_credential(keys.ak.handle, ek.handle, session, blob, secret);
        if activated.is_err() {
            // A session that served has ended with the command; one that did not may be there still.
            let _ = client.flush(session);
        }
        activated
    });
    let flushed = client.flush(ek.handle);
    let value = activated?;
    flushed.map(|()| value)
}
