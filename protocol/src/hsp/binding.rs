//! What a quote is bound to: one leaf, SHA-256 over everything that makes this challenge on this channel unlike any
//! other, and the way from the leaf to the root that one quote can have for many challengers.
//!
//! Who signs is handed a [`Binding`], never bytes: `security` computes the leaf itself, so that nobody who may ask for
//! a quote can have arbitrary bytes signed.

use gtvp_model::digest::Digest;
use gtvp_model::union::{Epoch, MemberId, UnionId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::message::{MAX_PATH, Node, Path};
use crate::frame::wire::{List, hex};

/// Begins a leaf.
const LEAF: &[u8] = b"gtvp-hsp-leaf/1\0";
/// Begins an inner node.
const NODE: &[u8] = b"gtvp-hsp-node/1\0";
/// The leaf that fills a tree up.
const EMPTY: &[u8] = b"gtvp-hsp-empty/1\0";
/// Begins what is quoted.
const ROOT: &[u8] = b"gtvp-hsp-root/1\0";

/// Which end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The TLS client.
    Initiator,
    /// The TLS server.
    Responder,
}

impl Role {
    /// The other end.
    pub fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What one piece of evidence is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The union: no quote for one counts in another.
    pub union: UnionId,
    /// The attester's epoch, as its hello said.
    pub epoch: Epoch,
    /// The attester's end: no evidence can be reflected.
    pub role: Role,
    /// Who attests.
    pub attester: MemberId,
    /// Whom: no evidence can be diverted.
    pub challenger: MemberId,
    /// RFC 9266's exporter of this TLS connection: no evidence can be relayed.
    #[serde(with = "hex")]
    pub exporter: [u8; 32],
    /// The challenger's nonce: no evidence can be replayed.
    #[serde(with = "hex")]
    pub nonce: [u8; 32],
    /// Name of the attester's TLS key: the exporter does not cover the client's certificate.
    #[serde(with = "hex")]
    pub attester_tls: Vec<u8>,
    /// Name of the challenger's.
    #[serde(with = "hex")]
    pub challenger_tls: Vec<u8>,
    /// Everything that both said: no version, epoch, selection or round can be changed.
    pub transcript: Digest,
}

impl Binding {
    /// The leaf: SHA-256(label ‖ union ‖ epoch ‖ role ‖ attester ‖ challenger ‖ exporter ‖ nonce ‖ TLS names, each with
    /// its length ‖ transcript).
    pub fn leaf(&self) -> Digest {
        let mut h = Sha256::new();
        h.update(LEAF);
        h.update(self.union.as_bytes());
        h.update(self.epoch.0.to_be_bytes());
        h.update([match self.role {
            Role::Initiator => 1,
            Role::Responder => 2,
        }]);
        h.update(self.attester.as_bytes());
        h.update(self.challenger.as_bytes());
        h.update(self.exporter);
        h.update(self.nonce);
        for name in [&self.attester_tls, &self.challenger_tls] {
            h.update(u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
            h.update(name);
        }
        h.update(self.transcript.0);
        Digest(h.finalize().into())
    }

    /// The qualifyingData that evidence with this path must have.
    pub fn qualifying_data(&self, path: &Path) -> Option<Digest> {
        qualifying_data(self.leaf(), path)
    }
}

/// SHA-256 over both hellos, as they were sent.
pub fn hellos(initiator: &[u8], responder: &[u8]) -> Digest {
    labelled(b"gtvp-hsp-hellos/1\0", &[initiator, responder])
}

/// The transcript of a later round: the hellos' and the challenge, as it was sent.
pub fn round(hellos: Digest, challenge: &[u8]) -> Digest {
    labelled(b"gtvp-hsp-round/1\0", &[&hellos.0, challenge])
}

/// SHA-256 over a label and parts, each with its length.
pub(crate) fn labelled(label: &[u8], parts: &[&[u8]]) -> Digest {
    let mut h = Sha256::new();
    h.update(label);
    for part in parts {
        h.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        h.update(part);
    }
    Digest(h.finalize().into())
}

fn node(left: Digest, right: Digest) -> Digest {
    let mut h = Sha256::new();
    h.update(NODE);
    h.update(left.0);
    h.update(right.0);
    Digest(h.finalize().into())
}

fn root(depth: usize, top: Digest) -> Digest {
    let mut h = Sha256::new();
    h.update(ROOT);
    h.update([u8::try_from(depth).unwrap_or(u8::MAX)]);
    h.update(top.0);
    Digest(h.finalize().into())
}

/// The qualifyingData that a leaf leads to. `None` if the path names a leaf that its tree does not have.
pub fn qualifying_data(leaf: Digest, path: &Path) -> Option<Digest> {
    let siblings = path.siblings.as_slice();
    if usize::from(path.index) >> siblings.len() != 0 {
        return None;
    }
    let mut index = path.index;
    let mut at = leaf;
    for Node(sibling) in siblings {
        at = if index & 1 == 0 { node(at, *sibling) } else { node(*sibling, at) };
        index >>= 1;
    }
    Some(root(siblings.len(), at))
}

/// A tree over the leaves that one quote answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What is quoted.
    pub qualifying_data: Digest,
    /// The way from each leaf, in their order.
    pub paths: Vec<Path>,
}

/// Most leaves of one tree.
pub const MAX_LEAVES: usize = 1 << MAX_PATH;

/// The tree over `leaves`, filled up to a power of two. `None` for no leaves, or more than [`MAX_LEAVES`].
pub fn tree(leaves: &[Digest]) -> Option<Tree> {
    if leaves.is_empty() || leaves.len() > MAX_LEAVES {
        return None;
    }
    let mut level = leaves.to_vec();
    level.resize(leaves.len().next_power_of_two(), Digest::of(EMPTY));
    let mut siblings = vec![Vec::new(); leaves.len()];
    let mut depth = 0;
    while level.len() > 1 {
        for (i, path) in siblings.iter_mut().enumerate() {
            path.extend(level.get((i >> depth) ^ 1).copied().map(Node));
        }
        level = level.chunks(2).filter_map(|pair| Some(node(*pair.first()?, *pair.get(1)?))).collect();
        depth += 1;
    }
    let qualifying_data = root(depth, *level.first()?);
    let paths = siblings
        .into_iter()
        .enumerate()
        .map(|(i, s)| Some(Path { index: u16::try_from(i).ok()?, siblings: List::try_from(s).ok()? }));
    Some(Tree { qualifying_data, paths: paths.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: usize) -> Vec<Digest> {
        (0..n).map(|i| Digest::of(&i.to_be_bytes())).collect()
    }

    #[test]
    fn every_leaf_leads_to_the_one_root_and_no_other_does() {
        for n in [1, 2, 3, 7, 8, 9, 200, MAX_LEAVES] {
            let leaves = leaves(n);
            let tree = tree(&leaves).unwrap();
            for (leaf, path) in leaves.iter().zip(&tree.paths) {
                assert_eq!(qualifying_data(*leaf, path), Some(tree.qualifying_data), "{n} leaves");
                assert_ne!(qualifying_data(Digest::of(b"other"), path), Some(tree.qualifying_data));
            }
        }
        assert_eq!(tree(&[]), None);
        assert_eq!(tree(&leaves(MAX_LEAVES + 1)), None);
    }

    #[test]
    fn a_node_is_no_leaf_and_a_path_has_no_second_form() {
        let leaves = leaves(4);
        let tree = tree(&leaves).unwrap();
        // The two inner nodes, passed off as leaves of a smaller tree.
        let inner = [node(leaves[0], leaves[1]), node(leaves[2], leaves[3])];
        let path = Path { index: 0, siblings: vec![Node(inner[1])].try_into().unwrap() };
        assert_ne!(qualifying_data(inner[0], &path), Some(tree.qualifying_data));
        // A number that the tree does not have.
        let path = Path { index: 4, ..tree.paths[0].clone() };
        assert_eq!(qualifying_data(leaves[0], &path), None);
        // A one-leaf tree is not its leaf.
        assert_ne!(super::tree(&leaves[..1]).unwrap().qualifying_data, leaves[0]);
    }

    #[test]
    fn each_field_changes_the_leaf() {
        let base = Binding {
            union: [1; 32].into(),
            epoch: Epoch(2),
            role: Role::Initiator,
            attester: [3; 32].into(),
            challenger: [4; 32].into(),
            exporter: [5; 32],
            nonce: [6; 32],
            attester_tls: vec![7; 34],
            challenger_tls: vec![8; 34],
            transcript: Digest([9; 32]),
        };
        let with = |change: fn(&mut Binding)| {
            let mut other = base.clone();
            change(&mut other);
            other.leaf()
        };
        let all = [
            base.leaf(),
            with(|b| b.union = [0; 32].into()),
            with(|b| b.epoch = Epoch(0)),
            with(|b| b.role = Role::Responder),
            with(|b| b.attester = [0; 32].into()),
            with(|b| b.challenger = [0; 32].into()),
            with(|b| std::mem::swap(&mut b.attester, &mut b.challenger)),
            with(|b| b.exporter = [0; 32]),
            with(|b| b.nonce = [0; 32]),
            with(|b| std::mem::swap(&mut b.exporter, &mut b.nonce)),
            with(|b| b.attester_tls = vec![]),
            with(|b| b.challenger_tls = vec![]),
            with(|b| b.attester_tls.append(&mut b.challenger_tls)),
            with(|b| b.transcript = Digest([0; 32])),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
