//! Debian packages (deb(5)): an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`, read as a stream.

use std::collections::BTreeMap;
use std::io::{self, Read};

use gtvp_model::component::Entry;

use crate::archive::{self, BadArchive, Bounded, Kind, Sink};
use crate::control::{Paragraph, paragraphs};

/// Most bytes that the control part unpacks to. The largest (with many checksums) are below 16 MiB.
const MAX_CONTROL: u64 = 64 * 1024 * 1024;
/// Most bytes of one of its files that are kept.
const MAX_CONTROL_FILE: u64 = 32 * 1024 * 1024;
/// What a package may unpack to: this much, and [`MAX_RATIO`] times its own size. By its indices the most compressible of Debian 12's
/// 64,171 packages has 244 times (files that are linked many times count each time).
const FREE_BYTES: u64 = 64 * 1024 * 1024;
/// See [`FREE_BYTES`].
const MAX_RATIO: u64 = 300;

/// A package's contents; its files are in the sink.
#[derive(Debug)]
pub struct Package {
    /// Its control paragraph.
    pub control: Paragraph,
    /// Files of its control part by name, `control` included: maintainer scripts, conffiles, triggers and the like.
    pub members: BTreeMap<String, Vec<u8>>,
    /// Its paths.
    pub entries: Vec<Entry>,
}

/// Why a package was refused.
#[derive(Debug, thiserror::Error)]
pub enum BadDeb {
    /// Its bytes could not be read.
    #[error("the package cannot be read")]
    Io(#[from] io::Error),
    /// Not what deb(5) describes.
    #[error("it is not a Debian package: {0}")]
    Format(&'static str),
    /// One of its archives is not acceptable.
    #[error("its {0} part is not acceptable")]
    Archive(&'static str, #[source] BadArchive),
    /// Compressed in a way that is not known.
    #[error("it is compressed as {0:?}, which is not known")]
    Compression(String),
}

/// Reads a package of `size` bytes.
pub fn read(input: impl Read, size: u64, sink: &mut dyn Sink) -> Result<Package, BadDeb> {
    let mut ar = Ar::new(input.take(size))?;
    let mut members = None;
    while let Some((name, length)) = ar.next()? {
        if let Some(compression) = name.strip_prefix("control.tar") {
            let part = decompress(compression, ar.member())?;
            members = Some(control_part(Bounded::new(part, MAX_CONTROL))?);
        } else if let Some(compression) = name.strip_prefix("data.tar") {
            let members: BTreeMap<String, Vec<u8>> =
                members.ok_or(BadDeb::Format("its control part does not come first"))?;
            let text = members.get("control").ok_or(BadDeb::Format("it has no control file"))?;
            let control = paragraphs(&String::from_utf8_lossy(text)).into_iter().next();
            let control = control.ok_or(BadDeb::Format("its control file is empty"))?;
            let allowed = FREE_BYTES + length.saturating_mul(MAX_RATIO);
            let part = Bounded::new(decompress(compression, ar.member())?, allowed);
            let entries = archive::read(part, Kind::Package, sink).map_err(|e| BadDeb::Archive("data", e))?;
            return Ok(Package { control, members, entries });
        }
        ar.finish_member()?;
    }
    Err(BadDeb::Format("it has no data part"))
}

/// Where the control part of a package lies, from the package's first bytes: offset and length.
pub fn control_extent(beginning: &[u8]) -> Option<(u64, u64)> {
    let mut ar = Ar::new(beginning).ok()?;
    while let Ok(Some((name, length))) = ar.next() {
        if name.starts_with("control.tar") {
            return Some((ar.offset, length));
        }
        ar.finish_member().ok()?;
    }
    None
}

/// Names of the files in the control part, from the package's first bytes, which must hold all of it.
pub fn control_names(beginning: &[u8]) -> Option<Vec<String>> {
    let mut ar = Ar::new(beginning).ok()?;
    while let Ok(Some((name, _))) = ar.next() {
        if let Some(compression) = name.strip_prefix("control.tar") {
            let part = decompress(compression, ar.member()).ok()?;
            return Some(control_part(Bounded::new(part, MAX_CONTROL)).ok()?.into_keys().collect());
        }
        ar.finish_member().ok()?;
    }
    None
}

/// Whether a file of the control part is a maintainer script that runs when a package is installed.
pub fn is_install_script(name: &str) -> bool {
    matches!(name, "preinst" | "postinst" | "config")
}

fn control_part(input: impl Read) -> Result<BTreeMap<String, Vec<u8>>, BadDeb> {
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let plain = matches!(entry.header().entry_type().as_byte(), b'0' | 0);
        let usable =
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_+.".contains(&c));
        if !plain || !usable {
            continue;
        }
        if entry.header().size()? > MAX_CONTROL_FILE || members.len() > 256 {
            return Err(BadDeb::Format("a file of its control part is too large"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        members.insert(name, bytes);
    }
    Ok(members)
}

/// What a file is compressed with, by the end of its name (`.xz`).
pub fn decompress<'a>(compression: &str, input: impl Read + 'a) -> Result<Box<dyn Read + 'a>, BadDeb> {
    Ok(match compression {
        "" => Box::new(input),
        ".gz" => Box::new(flate2::read::GzDecoder::new(input)),
        ".xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(input)),
        ".zst" => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(input);
            Box::new(decoder.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?)
        }
        other => return Err(BadDeb::Compression(other.chars().take(20).collect())),
    })
}

/// The members of an `ar` archive.
struct Ar<R> {
    input: R,
    left: u64,
    pad: bool,
    offset: u64,
}

impl<R: Read> Ar<R> {
    fn new(mut input: R) -> Result<Self, BadDeb> {
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if &magic != b"!<arch>\n" {
            return Err(BadDeb::Format("it does not begin as an ar archive"));
        }
        Ok(Self { input, left: 0, pad: false, offset: 8 })
    }

    /// Name and length of the next member.
    fn next(&mut self) -> Result<Option<(String, u64)>, BadDeb> {
        let mut header = [0; 60];
        if self.input.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        self.input.read_exact(&mut header[1..])?;
        if &header[58..] != b"`\n" {
            return Err(BadDeb::Format("a member's header is broken"));
        }
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().to_owned();
        let digits = text(48..58);
        let length =
            Some(&digits).filter(|d| d.bytes().all(|c| c.is_ascii_digit())).and_then(|d| d.parse().ok());
        self.left = length.ok_or(BadDeb::Format("a member's length is not a number"))?;
        self.pad = self.left % 2 == 1;
        self.offset += 60;
        Ok(Some((text(0..16).trim_end_matches('/').to_owned(), self.left)))
    }

    /// The member's bytes.
    fn member(&mut self) -> Member<'_, R> {
        Member(self)
    }

    /// Skips what was not read of it.
    fn finish_member(&mut self) -> Result<(), BadDeb> {
        io::copy(&mut Member(self), &mut io::sink())?;
        if self.left > 0 {
            return Err(BadDeb::Format("it ends in the middle of a member"));
        }
        if std::mem::take(&mut self.pad) {
            self.offset += self.input.read(&mut [0])? as u64;
        }
        Ok(())
    }
}

/// The bytes of the present member.
struct Member<'a, R>(&'a mut Ar<R>);

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.0.input.read(&mut buf[..most])?;
        self.0.left -= n as u64;
        self.0.offset += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::archive::tests::{Forget, add};

    pub(crate) fn member(out: &mut Vec<u8>, name: &str, data: &[u8]) {
        out.extend_from_slice(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, data.len()).as_bytes(),
        );
        out.extend_from_slice(data);
        if data.len() % 2 == 1 {
            out.push(b'\n');
        }
    }

    fn gz(data: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut e, data).unwrap();
        e.finish().unwrap()
    }

    /// A package with these files and this control text.
    pub(crate) fn package(control: &str, scripts: &[(&str, &str)], files: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut c, mut d) = (Vec::new(), Vec::new());
        add(&mut c, b'0', b"./control", b"", control.as_bytes());
        scripts.iter().for_each(|(n, t)| add(&mut c, b'0', n.as_bytes(), b"", t.as_bytes()));
        files.iter().for_each(|(n, t)| add(&mut d, b'0', n.as_bytes(), b"", t));
        c.resize(c.len() + 1024, 0);
        d.resize(d.len() + 1024, 0);
        let mut out = b"!<arch>\n".to_vec();
        member(&mut out, "debian-binary", b"2.0\n");
        member(&mut out, "control.tar.gz", &gz(&c));
        member(&mut out, "data.tar.gz", &gz(&d));
        out
    }

    #[test]
    fn a_package_reads_and_every_cut_of_it_is_refused() {
        let deb =
            package("Package: x\nVersion: 1\n", &[("postinst", "#!/bin/sh\n")], &[("./usr/x", b"hello")]);
        let whole = read(deb.as_slice(), deb.len() as u64, &mut Forget).unwrap();
        assert_eq!(whole.control.get("Package"), Some("x"));
        assert!(whole.members.contains_key("postinst"));
        assert_eq!(whole.entries.len(), 1);
        // The data part's gzip trailer and the tar's end marker may be missing without loss; before that nothing may.
        for cut in 0..deb.len() - 40 {
            assert!(read(&deb[..cut], cut as u64, &mut Forget).is_err(), "cut at {cut} was accepted");
        }
        let (from, length) = control_extent(&deb[..140]).unwrap();
        let names = control_names(&deb[..usize::try_from(from + length).unwrap()]).unwrap();
        assert_eq!(names, ["control", "postinst"]);
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0u8; 120 * 1024 * 1024];
        let deb = package("Package: x\n", &[], &[("./usr/zeros", &zeros)]);
        assert!(deb.len() < 130 * 1024, "{}", deb.len());
        let refused = read(deb.as_slice(), deb.len() as u64, &mut Forget);
        assert!(matches!(refused, Err(BadDeb::Archive("data", _))), "{refused:?}");
    }

    #[test]
    fn garbage_is_refused() {
        for bad in [&b""[..], b"!<arch>\n", b"PK\x03\x04aaaaaaaa", b"!<arch>\nshort"] {
            assert!(read(bad, bad.len() as u64, &mut Forget).is_err());
        }
        let mut lies = b"!<arch>\n".to_vec();
        member(&mut lies, "control.tar.gz", b"");
        lies[8 + 48..8 + 58].copy_from_slice(b"9999999999");
        assert!(read(lies.as_slice(), lies.len() as u64, &mut Forget).is_err());
    }
}
