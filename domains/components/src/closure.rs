//! What needs lead to: every package that must be there for them, and the kernel, as the signed indices name them.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_model::composition::{Composition, Item};
use gtvp_model::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::control::{Paragraph, paragraphs};

/// One package, as its signed index names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture: `amd64` or `all`.
    pub arch: String,
    /// SHA-256 of the package.
    pub source: Digest,
    /// Bytes of the package.
    pub size: u64,
    /// Where it is fetched from.
    pub uri: String,
    /// The archives that have this version, `label/suite`.
    pub origins: Vec<String>,
    /// Its paragraph in the index.
    pub control: String,
}

impl Package {
    /// `deb:nginx=1.22.1-9:amd64`.
    pub fn reference(&self) -> String {
        format!("deb:{}={}:{}", self.name, self.version, self.arch)
    }

    /// Its place in a composition.
    pub fn item(&self) -> Item {
        Item { reference: self.reference(), source: self.source, size: self.size }
    }

    /// Its paragraph, read.
    pub fn paragraph(&self) -> Paragraph {
        paragraphs(&self.control).into_iter().next().unwrap_or_default()
    }
}

/// Everything that was decided for some needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// The kernel's package.
    pub kernel: Package,
    /// The packages, highest precedence first.
    pub packages: Vec<Package>,
    /// For each of them: whether it has maintainer scripts that run at installation. Linking one that turns out to have
    /// some against this is refused.
    pub scripts: Vec<bool>,
    /// Manifest digest and source of the layer with the system's skeleton.
    pub base: Option<Digest>,
    /// Source of the layer with dpkg's records, for the application.
    pub dpkg: Option<Digest>,
    /// Source of the layer with dpkg's records and what runs the scripts, for the builder.
    pub builder: Option<Digest>,
    /// What names the derived component: the inputs of the scripts that run for this closure; none when none run.
    pub inputs: Option<Digest>,
    /// The derived component of the base that it stands on, if it does.
    #[serde(default)]
    pub beneath: Option<Digest>,
    /// How the layers were made: another version of GTVP makes them anew.
    #[serde(default)]
    pub made_with: Option<Digest>,
}

impl Closure {
    /// Of these packages.
    pub fn new(kernel: Package, packages: Vec<Package>) -> Self {
        let packages = ordered(packages);
        let scripts = vec![false; packages.len()];
        Self {
            kernel,
            packages,
            scripts,
            base: None,
            dpkg: None,
            builder: None,
            inputs: None,
            beneath: None,
            made_with: None,
        }
    }

    /// Its composition.
    pub fn composition(&self) -> Composition {
        Composition {
            format: 1,
            kernel: self.kernel.item(),
            items: self.packages.iter().map(Package::item).collect(),
        }
    }

    /// The derived component that holds what all scripts have left.
    pub fn configured(&self) -> Option<Digest> {
        self.inputs.or(self.beneath)
    }

    /// The packages that scripts belong to.
    pub fn with_scripts(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().zip(&self.scripts).filter(|(_, s)| **s).map(|(p, _)| p)
    }
}

/// The order of a composition: a package that declares that it replaces files of another stands before it (Debian
/// Policy §7.6.1: its files are the ones that stay), everything else by name. Packages that replace each other in a circle
/// stand by name.
pub fn ordered(packages: Vec<Package>) -> Vec<Package> {
    let mut by_name: BTreeMap<String, Package> = packages.into_iter().map(|p| (p.name.clone(), p)).collect();
    // For each package those that must stand before it.
    let mut before: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, package) in &by_name {
        for relation in package.paragraph().relations("Replaces").into_iter().flatten() {
            let Some(other) = by_name.get(&relation.name).filter(|o| o.name != *name) else { continue };
            if relation.version.is_none_or(|(op, v)| holds(&other.version, &op, &v)) {
                before.entry(other.name.clone()).or_default().insert(name.clone());
            }
        }
    }
    let mut out = Vec::with_capacity(by_name.len());
    while !by_name.is_empty() {
        let free =
            |name: &&String| before.get(*name).is_none_or(|b| b.iter().all(|n| !by_name.contains_key(n)));
        let next = by_name.keys().find(free).or_else(|| by_name.keys().next()).cloned();
        if let Some(package) = next.and_then(|n| by_name.remove(&n)) {
            out.push(package);
        }
    }
    out
}

/// Whether `version` satisfies `op wanted`.
pub fn holds(version: &str, op: &str, wanted: &str) -> bool {
    let order = crate::version::compare(version, wanted);
    match op {
        "<<" => order.is_lt(),
        "<=" | "<" => order.is_le(),
        "=" => order.is_eq(),
        ">=" | ">" => order.is_ge(),
        ">>" => order.is_gt(),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn package(name: &str, control: &str) -> Package {
        Package {
            name: name.into(),
            version: "1.0-1".into(),
            arch: "amd64".into(),
            source: Digest::of(name.as_bytes()),
            size: 10,
            uri: format!("http://archive/{name}.deb"),
            origins: vec!["Debian/stable".into()],
            control: format!("Package: {name}\nVersion: 1.0-1\n{control}"),
        }
    }

    #[test]
    fn the_same_packages_in_any_order_make_the_same_composition() {
        let all = [package("a", ""), package("z", "Replaces: a (<< 2), m (<< 1)\n"), package("m", "")];
        let names = |list: &[usize]| {
            let c = Closure::new(package("linux", ""), list.iter().map(|i| all[*i].clone()).collect());
            (c.packages.iter().map(|p| p.name.clone()).collect::<Vec<_>>(), c.composition().digest())
        };
        let first = names(&[0, 1, 2]);
        assert_eq!(first.0, ["m", "z", "a"]);
        for order in [[2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            assert_eq!(names(&order), first);
        }
    }

    #[test]
    fn a_circle_of_replacements_ends() {
        let circle = vec![package("a", "Replaces: b\n"), package("b", "Replaces: a\n")];
        assert_eq!(ordered(circle).len(), 2);
    }
}
