//! What people, boxes and domains send: tokens, specifications, manifests, the guest agent's frames, calls between domains.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;

use gtvp_model::boxspec::BoxSpec;
use gtvp_model::component::{Entry, EntryKind, Manifest, RootPath};
use gtvp_model::digest::Digest;
use gtvp_model::guest::{Decoder, Frame, FrameKind, MAX_PAYLOAD, ToGuest, ToHost};
use gtvp_model::peer::PeerQuestion;
use gtvp_model::stream;
use gtvp_model::token::{JoinToken, TokenSecret};
use gtvp_model::union::{RecordHead, UnixTime};

use crate::{Row, same};

pub const TARGETS: &[Row] = &[
    ("token", tokens, |bytes| match std::str::from_utf8(bytes).map(str::parse::<JoinToken>) {
        Ok(Ok(token)) if token.to_string().parse().ok().as_ref() != Some(&token) => {
            Err("a token does not survive".into())
        }
        _ => Ok(()),
    }),
    (
        "box-spec",
        || vec![BOX.as_bytes().to_vec()],
        |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
            let _ = toml::from_str::<BoxSpec>(text);
            let _ = serde_json::from_str::<BoxSpec>(text);
            Ok(())
        },
    ),
    ("component-manifest", manifests, |bytes| match Manifest::from_bytes(bytes) {
        Ok(manifest) => same("a manifest", bytes, &manifest.to_bytes()),
        Err(_) => Ok(()),
    }),
    (
        "root-path",
        || vec![b"usr/lib/x86_64-linux-gnu/libc.so.6".to_vec()],
        |bytes| match RootPath::new(bytes) {
            Ok(path) if path.as_bytes().split(|b| *b == b'/').any(|part| part == b"..") => {
                Err("a path leaves its root".into())
            }
            _ => Ok(()),
        },
    ),
    (
        "member-config",
        || vec![MEMBER.as_bytes().to_vec()],
        |bytes| {
            let _ = std::str::from_utf8(bytes).map(gtvp_model::member::parse);
            Ok(())
        },
    ),
    (
        "peer-question",
        || vec![br#"{"peer":"m2/web","nonce":"000102030405060708090a0b0c0d0e0f"}"#.to_vec()],
        |bytes| {
            let _ = PeerQuestion::parse(bytes).map(|q| q.check());
            Ok(())
        },
    ),
    ("guest-frames", guest, guest_frames),
    (
        "stream-frames",
        || vec![stream::encode(stream::StreamKind::Stdout, b"hello")],
        |mut bytes| {
            while let Ok(Some(_)) = stream::read(&mut bytes) {}
            Ok(())
        },
    ),
    ("ipc-frames", calls, ipc),
];

const BOX: &str = r#"
name = "web"
needs = ["nginx", "deb:curl=1.0-1"]
command = ["nginx", "-g", "daemon off;"]
memory = "256M"
publish = ["8080:80", "127.0.0.1:53:53/udp"]
[env]
A = "b"
"#;

const MEMBER: &str = "name = \"m1\"\n[boxes]\nsubnet = \"10.77.0.0/16\"\n";

fn tokens() -> Vec<Vec<u8>> {
    let token = |ek: Option<[u8; 32]>, endpoint: &str| {
        let token = JoinToken {
            union: [3; 32].into(),
            head: RecordHead { number: 300, hash: Digest([4; 32]) },
            endpoint: endpoint.parse().ok()?,
            expires: UnixTime(1_800_000_000),
            ek: ek.map(Into::into),
            secret: TokenSecret::new([5; 16]),
        };
        Some(token.to_string().into_bytes())
    };
    [token(None, "192.0.2.1:7600"), token(Some([6; 32]), "[2001:db8::1]:7600"), token(None, "a.example:7600")]
        .into_iter()
        .flatten()
        .collect()
}

fn manifests() -> Vec<Vec<u8>> {
    let entry = |path: &str, kind: EntryKind| {
        let path = RootPath::new(path.as_bytes()).ok()?;
        Some(Entry { path, kind, mode: 0o755, uid: 0, gid: 0, mtime: 7, xattrs: BTreeMap::new() })
    };
    let file = |hardlink_of| EntryKind::File { size: 5, digest: Digest([1; 32]), hardlink_of };
    let entries = [
        entry("a", EntryKind::Dir { opaque: true }),
        entry("a/b", file(None)),
        entry("a/c", file(RootPath::new(b"a/b").ok())),
        entry("a/d", EntryKind::Symlink { target: "../x".into() }),
        entry("a/e", EntryKind::Whiteout),
    ];
    let manifest = Manifest {
        format: 1,
        reference: "deb:x=1:amd64".into(),
        origin: "Debian".into(),
        source: Digest([2; 32]),
        source_size: 9,
        level: 0,
        provides: vec!["x".into()],
        needs: vec!["libc6 (>= 2.36)".into()],
        entries: entries.into_iter().flatten().collect(),
    };
    vec![manifest.to_bytes()]
}

fn guest() -> Vec<Vec<u8>> {
    let control =
        Frame { kind: FrameKind::Control, stream: 0, payload: br#"{"type":"hello"}"#.to_vec() }.encode();
    let data = Frame::data(7, vec![9; 300]).encode();
    // Headers whose frames are not there, one behind the other, each as long as may be.
    let mut torn = Frame::data(1, Vec::new()).encode();
    let long = u32::try_from(MAX_PAYLOAD).unwrap_or(u32::MAX).to_le_bytes();
    torn.iter_mut().skip(12).zip(long).for_each(|(to, from)| *to = from);
    let torn = torn.repeat(2 * MAX_PAYLOAD / torn.len());
    vec![control.clone(), data.clone(), [data, control].concat(), torn]
}

fn guest_frames(bytes: &[u8]) -> Result<(), String> {
    let mut decoder = Decoder::new();
    for piece in bytes.chunks(64 * 1024) {
        decoder.push(piece);
        // As `drivers` does, which has enough of it then.
        if decoder.skipped() > 2 * 1024 * 1024 {
            return Ok(());
        }
        while let Some(frame) = decoder.next_frame() {
            if frame.payload.len() > MAX_PAYLOAD {
                return Err("a frame is longer than any".into());
            }
            let _ = serde_json::from_slice::<ToHost>(&frame.payload);
            let _ = serde_json::from_slice::<ToGuest>(&frame.payload);
        }
    }
    Ok(())
}

fn calls() -> Vec<Vec<u8>> {
    let json: &[&[u8]] = &[
        br#"{"method":"state","params":{}}"#,
        br#"{"method":"members","params":{}}"#,
        br#"{"method":"write_admission","params":{"admission":null}}"#,
    ];
    let framed = |json: &&[u8]| [&u32::try_from(json.len()).unwrap_or(0).to_le_bytes()[..], json].concat();
    json.iter().map(framed).collect()
}

fn ipc(bytes: &[u8]) -> Result<(), String> {
    let Ok((one, two)) = UnixStream::pair() else { return Ok(()) };
    // What a socket holds without a reader.
    let bytes = bytes.get(..32_768).unwrap_or(bytes);
    let _ = (&one).write_all(bytes);
    drop(one);
    while let Ok(Some((json, _))) = gtvp_ipc::wire::recv(&two) {
        let _ = serde_json::from_slice::<gtvp_ipc::security::Request>(&json);
        let _ = serde_json::from_slice::<gtvp_ipc::communication::Request>(&json);
        let _ = serde_json::from_slice::<gtvp_ipc::components::Request>(&json);
        let _ = serde_json::from_slice::<gtvp_ipc::drivers::Request>(&json);
        let _ = serde_json::from_slice::<gtvp_ipc::management::Request>(&json);
    }
    Ok(())
}
