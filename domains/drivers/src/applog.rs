//! What a box's application wrote, on disk: numbered records that keep standard output and standard error apart, in
//! two files of bounded size, the older one given up when the newer is full.
//!
//! ```text
//! 0      8    9    12       16
//! | seq  | fd | 0  | length | bytes …     little endian; fd 1 or 2; fd 0 without bytes marks a machine's start
//! ```
//!
//! A record that was cut off by a crash is cut away when the log is opened again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size at which a file is full. Two of them, times 252 boxes, is half a gigabyte of disk at most.
pub const MOST_BYTES: u64 = 1024 * 1024;
/// Most bytes of one record: a frame's payload.
pub const MOST_RECORD: usize = gtvp_model::guest::MAX_PAYLOAD;
const HEADER: usize = 16;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The guest's number.
    pub seq: u64,
    /// 1 standard output, 2 standard error, 0 a start.
    pub fd: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The newer file.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("app.log")
}

/// The older file.
pub fn old_path(folder: &Path) -> PathBuf {
    folder.join("app.log.1")
}

/// The writing side.
pub struct AppLog {
    folder: PathBuf,
    file: File,
    size: u64,
    last_seq: u64,
}

impl AppLog {
    /// Opens the log as it is and finds the last number in it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut last_seq = 0;
        if let Ok(mut old) = File::open(old_path(folder)) {
            while let Some(record) = read_record(&mut old)? {
                last_seq = record.seq;
            }
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(path(folder))?;
        let mut size = 0;
        while let Some(record) = read_record(&mut file)? {
            last_seq = record.seq;
            size += (HEADER + record.bytes.len()) as u64;
        }
        file.set_len(size)?;
        Ok(Self { folder: folder.to_owned(), file, size, last_seq })
    }

    /// The number of the last record of this machine.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// A new machine starts, whose numbers begin at 1.
    pub fn mark_start(&mut self) -> io::Result<()> {
        self.append(0, 0, &[])
    }

    /// Adds a record.
    pub fn append(&mut self, seq: u64, fd: u8, bytes: &[u8]) -> io::Result<()> {
        let bytes = &bytes[..bytes.len().min(MOST_RECORD)];
        if self.size >= MOST_BYTES {
            std::fs::rename(path(&self.folder), old_path(&self.folder))?;
            let mut options = OpenOptions::new();
            self.file = options.read(true).append(true).create(true).mode(0o600).open(path(&self.folder))?;
            self.size = 0;
        }
        let mut record = Vec::with_capacity(HEADER + bytes.len());
        record.extend_from_slice(&seq.to_le_bytes());
        record.extend_from_slice(&[fd, 0, 0, 0]);
        record.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(bytes);
        self.last_seq = seq;
        if let Err(e) = self.file.write_all(&record) {
            // A full disk: take the half record back, so that the next one can be read.
            let _ = self.file.set_len(self.size);
            return Err(e);
        }
        self.size += record.len() as u64;
        Ok(())
    }
}

/// The next record; `None` at the end, whole or not.
fn read_record(from: &mut File) -> io::Result<Option<Record>> {
    let start = from.stream_position()?;
    let mut header = [0; HEADER];
    let mut have = 0;
    while have < HEADER {
        match from.read(&mut header[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, fd, _, _, _, l0, l1, l2, l3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if have == HEADER && fd <= 2 && length <= MOST_RECORD {
        let mut bytes = Vec::new();
        from.take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() == length {
            let seq = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            return Ok(Some(Record { seq, fd, bytes }));
        }
    }
    from.seek(SeekFrom::Start(start))?;
    Ok(None)
}

/// The reading side: goes on over rotations for as long as it is asked.
pub struct Reader {
    folder: PathBuf,
    file: Option<File>,
    ahead: VecDeque<Record>,
}

impl Reader {
    /// From `tail` lines before the end, or from the beginning.
    pub fn open(folder: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut reader = Self { folder: folder.to_owned(), file: None, ahead: VecDeque::new() };
        reader.file = open_if_there(&old_path(folder))?;
        if reader.file.is_none() {
            reader.file = open_if_there(&path(folder))?;
        }
        if let Some(lines) = tail {
            let mut all = Vec::new();
            while let Some(record) = reader.next_on_disk()? {
                all.push(record);
            }
            reader.ahead = last_lines(all, lines).into();
        }
        Ok(reader)
    }

    /// The next record; `None` when there is none yet.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        match self.ahead.pop_front() {
            Some(record) => Ok(Some(record)),
            None => self.next_on_disk(),
        }
    }

    fn next_on_disk(&mut self) -> io::Result<Option<Record>> {
        use std::os::unix::fs::MetadataExt;
        loop {
            if let Some(file) = &mut self.file {
                if let Some(record) = read_record(file)? {
                    return Ok(Some(record));
                }
            }
            // This one is at its end: is it still the newer one?
            let Some(newer) = open_if_there(&path(&self.folder))? else { return Ok(None) };
            if let Some(file) = &mut self.file {
                if file.metadata()?.ino() == newer.metadata()?.ino() {
                    return Ok(None);
                }
                // What came between the end and the rotation.
                if let Some(record) = read_record(file)? {
                    return Ok(Some(record));
                }
            }
            self.file = Some(newer);
        }
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(f) => Ok(Some(f)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The last `lines` lines of what the records say together.
fn last_lines(records: Vec<Record>, lines: u64) -> Vec<Record> {
    let mut wanted = Vec::new();
    if lines == 0 {
        return wanted;
    }
    let mut ends = 0;
    let mut at_end = true;
    for mut record in records.into_iter().rev() {
        let mut cut = None;
        for (i, byte) in record.bytes.iter().enumerate().rev() {
            if *byte == b'\n' && !at_end {
                ends += 1;
            }
            if ends >= lines {
                cut = Some(i + 1);
                break;
            }
            at_end = false;
        }
        if let Some(cut) = cut {
            record.bytes.drain(..cut);
            wanted.extend((!record.bytes.is_empty()).then_some(record));
            break;
        }
        wanted.push(record);
    }
    wanted.reverse();
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Folder;

    fn all(reader: &mut Reader) -> Vec<(u8, String)> {
        let next = || reader.next_record().unwrap();
        std::iter::from_fn(next).map(|r| (r.fd, String::from_utf8(r.bytes).unwrap())).collect()
    }

    #[test]
    fn a_torn_record_is_cut_away_and_the_last_number_found() {
        let folder = Folder::new();
        let mut log = AppLog::open(folder.path()).unwrap();
        log.append(1, 1, b"one").unwrap();
        log.append(2, 2, b"two").unwrap();
        let whole = std::fs::metadata(path(folder.path())).unwrap().len();
        log.append(3, 1, b"three").unwrap();
        OpenOptions::new().write(true).open(path(folder.path())).unwrap().set_len(whole + 18).unwrap();
        let mut log = AppLog::open(folder.path()).unwrap();
        assert_eq!(log.last_seq(), 2);
        log.append(3, 1, b"again").unwrap();
        let got = all(&mut Reader::open(folder.path(), None).unwrap());
        assert_eq!(got, [(1, "one".into()), (2, "two".into()), (1, "again".into())]);
    }

    #[test]
    fn a_flood_stays_in_two_files_and_a_reader_follows_over_the_rotation() {
        let folder = Folder::new();
        let mut log = AppLog::open(folder.path()).unwrap();
        log.append(1, 1, b"first\n").unwrap();
        let mut reader = Reader::open(folder.path(), None).unwrap();
        assert_eq!(all(&mut reader).len(), 1);
        let mut seen = 1;
        for seq in 2..200 {
            log.append(seq, 1, &vec![b'x'; 100_000]).unwrap();
            while let Some(record) = reader.next_record().unwrap() {
                seen += 1;
                assert_eq!(record.seq, seen);
            }
        }
        assert_eq!(seen, 199);
        let size: u64 =
            [path(folder.path()), old_path(folder.path())].iter().map(|p| p.metadata().unwrap().len()).sum();
        assert!(size < 2 * (MOST_BYTES + 100_100), "{size}");
        assert_eq!(AppLog::open(folder.path()).unwrap().last_seq(), 199);
    }

    #[test]
    fn the_last_lines_are_counted_over_both_streams() {
        let folder = Folder::new();
        let mut log = AppLog::open(folder.path()).unwrap();
        for (seq, fd, text) in [(1, 1, "a\nb\n"), (2, 2, "c\nd"), (3, 1, "e\n"), (4, 1, "f\n")] {
            log.append(seq, fd, text.as_bytes()).unwrap();
        }
        let tail = |n| all(&mut Reader::open(folder.path(), Some(n)).unwrap());
        assert_eq!(tail(1), [(1, "f\n".into())]);
        assert_eq!(tail(2), [(2, "d".into()), (1, "e\n".into()), (1, "f\n".into())]);
        assert_eq!(tail(4)[0], (1, "b\n".into()));
        assert_eq!(tail(100).len(), 4);
        assert_eq!(tail(0), []);
    }
}
