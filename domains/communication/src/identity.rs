//! This member's TLS key, which is in its TPM: `security` signs with it, and puts together itself what it signs.

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use gtvp_ipc::security::{SignTls, TlsRole};
use gtvp_model::fault::Fault;
use gtvp_protocol::hsp::Role;
use gtvp_protocol::hsp::signable::CertificateVerify;

use crate::security::Security;
use crate::tls::{Ends, IdentityKey};

/// See the module.
pub struct OwnKey {
    spki: Vec<u8>,
    security: Arc<dyn Security>,
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnKey")
    }
}

impl IdentityKey for OwnKey {
    fn spki(&self) -> Vec<u8> {
        self.spki.clone()
    }

    fn sign(&self, content: &[u8]) -> Result<[u8; 64], String> {
        let what = CertificateVerify::parse(content).map_err(|e| e.to_string())?;
        let role = match what.role {
            Role::Initiator => TlsRole::Client,
            Role::Responder => TlsRole::Server,
        };
        let ask = SignTls { role, transcript: HEXLOWER.encode(what.transcript) };
        let signature = self.security.sign_tls(&ask).map_err(|fault| fault.to_string())?;
        let bytes = HEXLOWER.decode(signature.value.as_bytes()).map_err(|e| e.to_string())?;
        bytes.try_into().map_err(|_| "security's signature has not 64 bytes".to_owned())
    }
}

/// Both ends of a connection, with the key that `security` has now.
///
/// # Errors
/// `security`'s, or the library's.
pub fn ends(security: &Arc<dyn Security>) -> Result<Ends, Fault> {
    let keys = security.own_keys()?;
    let key = OwnKey { spki: keys.spki, security: security.clone() };
    Ends::new(Arc::new(key)).map_err(|e| Fault::internal("TLS does not take this member's key", &e))
}
