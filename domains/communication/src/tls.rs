//! TLS 1.3 between members: mutual, with raw public keys (RFC 7250) that each side keeps in its TPM; X25519MLKEM768 and nothing
//! weaker; no tickets, no resumption, no 0-RTT, so that each connection has an exporter of its own (docs/spec/hsp.md).
//!
//! TLS proves here that the peer has its key, not who it is: HSP looks the key up. Private keys are not in this process; it
//! asks `security` for each signature.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs as lc, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName,
    Error, ServerConfig, ServerConnection, SignatureAlgorithm, SignatureScheme,
};

/// What members speak (RFC 7301): nobody is led here from another protocol.
const ALPN: &[u8] = b"gtvp/1";
/// Label of the exporter that evidence is bound to.
const EXPORTER: &[u8] = b"EXPORTER-gtvp-hsp-1";
/// SubjectPublicKeyInfo of a P-256 key, bytes (RFC 5480): no other keys are taken.
const SPKI: usize = 91;

/// A key that signs elsewhere.
pub trait IdentityKey: Send + Sync + fmt::Debug {
    /// Its SubjectPublicKeyInfo, DER.
    fn spki(&self) -> Vec<u8>;
    /// Signs the content of a CertificateVerify (RFC 8446 §4.4.3); r ‖ s, 64 bytes.
    ///
    /// # Errors
    /// Why it could not be signed.
    fn sign(&self, content: &[u8]) -> Result<[u8; 64], String>;
}

/// Both ends, as this member is them.
pub struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Ends {
    /// With this member's key.
    ///
    /// # Errors
    /// The library's.
    pub fn new(key: Arc<dyn IdentityKey>) -> Result<Self, Error> {
        let mut provider = lc::default_provider();
        provider.kx_groups = vec![lc::kx_group::X25519MLKEM768];
        let provider = Arc::new(provider);
        let verifier = Arc::new(AnyKey(provider.clone()));
        let spki = CertificateDer::from(key.spki());
        let certified = Arc::new(CertifiedKey::new(vec![spki], Arc::new(Remote(key))));

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified.clone())));
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)));
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.enable_sni = false;
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    /// The end that was called.
    ///
    /// # Errors
    /// The library's.
    pub fn called(&self) -> Result<Connection, Error> {
        ServerConnection::new(self.server.clone()).map(Connection::from)
    }

    /// The end that calls.
    ///
    /// # Errors
    /// The library's.
    pub fn calling(&self) -> Result<Connection, Error> {
        // Keys say who members are; names do not.
        let nobody = ServerName::try_from("member.invalid").map_err(|e| Error::General(e.to_string()))?;
        ClientConnection::new(self.client.clone(), nobody).map(Connection::from)
    }
}

/// What a finished handshake gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Evidence is bound to it (RFC 8446 §7.5).
    pub exporter: [u8; 32],
    /// The peer's key: SubjectPublicKeyInfo, DER.
    pub peer: Vec<u8>,
}

/// Of a connection whose handshake is over.
///
/// # Errors
/// It is not over, or the peer did not speak members' protocol.
pub fn facts(connection: &Connection) -> io::Result<Facts> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(bad("the peer does not speak GTVP's protocol"));
    }
    let peer =
        connection.peer_certificates().and_then(|c| c.first()).ok_or_else(|| bad("the peer has no key"))?;
    let exporter = connection
        .export_keying_material([0; 32], EXPORTER, None)
        .map_err(|e| bad(&format!("the connection has no exporter: {e}")))?;
    Ok(Facts { exporter, peer: peer.to_vec() })
}

/// Takes any P-256 key that the peer proves to have.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl AnyKey {
    fn look(key: &CertificateDer<'_>) -> Result<(), Error> {
        match key.len() {
            SPKI => Ok(()),
            _ => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    fn proved(
        &self,
        content: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(
            content,
            &key,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }
}

fn only_tls13() -> Error {
    Error::General("members speak TLS 1.3".into())
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::look(key).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        content: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.proved(content, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::look(key).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        content: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.proved(content, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A key elsewhere, as the library wants one.
#[derive(Debug, Clone)]
struct Remote(Arc<dyn IdentityKey>);

impl SigningKey for Remote {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.spki()))
    }
}

impl Signer for Remote {
    fn sign(&self, content: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(content).map(|raw| der(&raw)).map_err(Error::General)
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// r ‖ s as Ecdsa-Sig-Value (RFC 3279 §2.2.3).
fn der(raw: &[u8; 64]) -> Vec<u8> {
    let (r, s) = raw.split_at(32);
    let body = [integer(r), integer(s)].concat();
    // At most 2 · 35 bytes: the short form of the length.
    [&[0x30, u8::try_from(body.len()).unwrap_or(0)], body.as_slice()].concat()
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeroes = bytes.iter().take_while(|b| **b == 0).count().min(bytes.len().saturating_sub(1));
    let digits = bytes.get(zeroes..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_some_and(|b| *b >= 0x80) { &[0] } else { &[] };
    let length = u8::try_from(sign.len() + digits.len()).unwrap_or(0);
    [&[0x02, length], sign, digits].concat()
}

/// A key in memory, for tests.
#[cfg(test)]
pub mod software {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use gtvp_model::union::P256_SPKI_HEAD;

    use super::*;

    /// The key, and whether it signs.
    #[derive(Debug)]
    pub struct Software(pub EcdsaKeyPair, pub bool);

    impl Software {
        /// A new one, that signs.
        pub fn new() -> Arc<Self> {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            Arc::new(Self(pair, true))
        }
    }

    impl IdentityKey for Software {
        fn spki(&self) -> Vec<u8> {
            [&P256_SPKI_HEAD, self.0.public_key().as_ref()].concat()
        }

        fn sign(&self, content: &[u8]) -> Result<[u8; 64], String> {
            if !self.1 {
                return Err("the TPM does not answer".into());
            }
            let signature = self.0.sign(&SystemRandom::new(), content).map_err(|e| e.to_string())?;
            signature.as_ref().try_into().map_err(|_| "not 64 bytes".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::software::Software;
    use gtvp_model::union::P256_SPKI_HEAD;

    use super::*;
    use lc::kx_group;
    use rustls::NamedGroup;
    /// Has two ends shake hands in memory.
    fn shake(a: &mut Connection, b: &mut Connection) -> Result<(), Error> {
        let pass = |from: &mut Connection, to: &mut Connection| {
            let mut bytes = Vec::new();
            while from.wants_write() {
                from.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                to.read_tls(&mut bytes).unwrap();
                to.process_new_packets()?;
            }
            Ok::<_, Error>(())
        };
        for _ in 0..10 {
            pass(a, b)?;
            pass(b, a)?;
        }
        Ok(())
    }

    #[test]
    fn two_members_know_each_others_keys_and_share_an_exporter() {
        let (a, b) = (Software::new(), Software::new());
        let (ends_a, ends_b) = (Ends::new(a.clone()).unwrap(), Ends::new(b.clone()).unwrap());
        let mut exporters = Vec::new();
        // Twice: the second is as full a handshake as the first.
        for _ in 0..2 {
            let (mut client, mut server) = (ends_a.calling().unwrap(), ends_b.called().unwrap());
            shake(&mut client, &mut server).unwrap();
            let (at_a, at_b) = (facts(&client).unwrap(), facts(&server).unwrap());
            assert_eq!((at_a.peer, at_b.peer), (b.spki(), a.spki()));
            assert_eq!(at_a.exporter, at_b.exporter);
            exporters.push(at_a.exporter);
            assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
            let group = client.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
        }
        assert_ne!(exporters[0], exporters[1]);
    }

    /// Who has no key.
    #[derive(Debug)]
    struct Nobody;

    impl rustls::client::ResolvesClientCert for Nobody {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }
        fn has_certs(&self) -> bool {
            false
        }
    }

    #[test]
    fn threat_13_14_whoever_has_no_key_or_less_than_all_of_it_gets_no_connection() {
        let ours = Ends::new(Software::new()).unwrap();
        let theirs = Ends::new(Software::new()).unwrap();
        let with = |change: &dyn Fn(&mut ClientConfig)| {
            let mut config = (*theirs.client).clone();
            change(&mut config);
            let name = ServerName::try_from("member.invalid").unwrap();
            let mut client = Connection::from(ClientConnection::new(Arc::new(config), name).unwrap());
            let mut server = ours.called().unwrap();
            shake(&mut client, &mut server)
                .and_then(|()| facts(&server).map_err(|e| Error::General(e.to_string())))
        };
        assert!(with(&|_| {}).is_ok(), "the control");
        assert!(with(&|c| c.client_auth_cert_resolver = Arc::new(Nobody)).is_err());
        assert!(with(&|c| c.alpn_protocols = vec![b"h2".to_vec()]).is_err());
        // A server that offers less is refused by our client as well: it offers one group.
        let mut weak = lc::default_provider();
        weak.kx_groups = vec![kx_group::X25519];
        let weak = ClientConfig::builder_with_provider(Arc::new(weak))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyKey(Arc::new(lc::default_provider()))))
            .with_client_cert_resolver(theirs.client.client_auth_cert_resolver.clone());
        let name = ServerName::try_from("member.invalid").unwrap();
        let mut client = Connection::from(ClientConnection::new(Arc::new(weak), name).unwrap());
        assert!(shake(&mut client, &mut ours.called().unwrap()).is_err());
    }

    /// The control of 13 and 14: who is less strict at both ends resumes, and takes whoever has no key.
    #[test]
    fn ends_that_are_less_strict_resume_and_answer_to_nobody() {
        let (ours, theirs) = (Ends::new(Software::new()).unwrap(), Ends::new(Software::new()).unwrap());
        let kinds = |server: ServerConfig, client: ClientConfig| {
            let (server, client) = (Arc::new(server), Arc::new(client));
            [0, 1].map(|_| {
                let name = ServerName::try_from("member.invalid").unwrap();
                let mut called = Connection::from(ServerConnection::new(server.clone()).unwrap());
                let mut calling = Connection::from(ClientConnection::new(client.clone(), name).unwrap());
                shake(&mut calling, &mut called).unwrap();
                calling.handshake_kind().unwrap()
            })
        };
        let mut resumes = (*theirs.client).clone();
        resumes.resumption = Resumption::in_memory_sessions(8);
        let mut remembers = (*ours.server).clone();
        remembers.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
        remembers.send_tls13_tickets = 1;
        let (full, resumed) = (rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed);
        assert_eq!(kinds(remembers.clone(), resumes.clone()), [full, resumed], "without its guards");
        // Either end's guard is enough.
        assert_eq!(kinds((*ours.server).clone(), resumes), [full, full]);
        assert_eq!(kinds(remembers, (*theirs.client).clone()), [full, full]);

        let mut takes_all = ServerConfig::builder_with_provider(ours.server.crypto_provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(ours.server.cert_resolver.clone());
        takes_all.alpn_protocols = vec![ALPN.to_vec()];
        let mut no_key = (*theirs.client).clone();
        no_key.client_auth_cert_resolver = Arc::new(Nobody);
        assert_eq!(kinds(takes_all, no_key)[0], full, "without its guard");
    }

    #[test]
    fn a_key_that_cannot_sign_ends_the_handshake() {
        let dead = Arc::new(Software(Arc::try_unwrap(Software::new()).unwrap().0, false));
        let (ours, theirs) = (Ends::new(dead).unwrap(), Ends::new(Software::new()).unwrap());
        let (mut client, mut server) = (theirs.calling().unwrap(), ours.called().unwrap());
        let refused = shake(&mut client, &mut server).unwrap_err();
        assert!(refused.to_string().contains("the TPM does not answer"), "{refused}");
    }

    #[test]
    fn numbers_are_written_as_der_wants_them() {
        let mut raw = [0; 64];
        raw[31] = 1;
        raw[32] = 0x80;
        let mut want = vec![0x30, 3 + 35, 0x02, 1, 1, 0x02, 33, 0, 0x80];
        want.extend([0; 31]);
        assert_eq!(der(&raw), want);
        assert_eq!(P256_SPKI_HEAD.len() + 65, SPKI);
    }
}
