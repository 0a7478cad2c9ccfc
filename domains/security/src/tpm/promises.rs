//! What this member has promised as a voter, in the TPM: the number of the last entry and of which union. It does not go back when the disk
//! is put back to an older copy. It decides nothing: `gtvp_protocol::csp::keeper` does.
//!
//! A plain index, written as a whole, and not a counter: entries that others decided are skipped in one write, and a recovery gives up
//! what was promised before. Not an orderly one: those lose what was written last when the power goes. It has an empty password, like
//! the keys: whoever may use this TPM could as well sign with them. One write an entry that this member votes for, which is a handful a day;
//! a TPM's lasting memory bears 100,000 and more.

use gtvp_model::union::UnionId;

use super::client::{Client, TpmError};
use super::codes::{Rc, handle, nv};
use super::commands::NvPublic;
use super::wire::{Malformed, Reader, Writer};

/// What the contents begin with: their form, and that they are ours.
const FORM: &[u8; 8] = b"gtvp-p/1";
/// Form, union, number.
const SIZE: usize = 8 + 32 + 8;
const PUBLIC: NvPublic =
    NvPublic { attributes: nv::AUTH_READ | nv::AUTH_WRITE | nv::WRITE_ALL | nv::NO_DA, size: SIZE };

/// The highest number that was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promised {
    /// In this union.
    pub union: UnionId,
    /// Of this entry.
    pub number: u64,
}

/// Makes sure of an index to write into. What is in it stays.
///
/// # Errors
/// The TPM's: no room, an owner's password; an index of another program.
pub fn prepare(client: &mut Client) -> Result<(), TpmError> {
    match client.nv_public(handle::PROMISES)? {
        None => match client.nv_define(handle::PROMISES, PUBLIC) {
            // Somebody did so in between: what it is, is seen when it is written.
            Err(TpmError::Refused { rc: Rc::NV_DEFINED, .. }) => Ok(()),
            other => other,
        },
        Some(public) => ours(public),
    }
}

fn ours(public: NvPublic) -> Result<(), TpmError> {
    let attributes = public.attributes & !nv::WRITTEN;
    if (NvPublic { attributes, ..public }) == PUBLIC {
        Ok(())
    } else {
        Err(TpmError::Unfit(
            "the TPM's index 0x01804754, which counts this member's promises, is of another kind",
        ))
    }
}

/// What is there; `None` where nothing was ever written, or the index is gone.
///
/// # Errors
/// The TPM's; contents of another program.
pub fn read(client: &mut Client) -> Result<Option<Promised>, TpmError> {
    let Some(public) = client.nv_public(handle::PROMISES)? else { return Ok(None) };
    ours(public)?;
    let contents = match client.nv_contents(handle::PROMISES, SIZE) {
        Err(TpmError::Refused { rc: Rc::NV_UNINITIALIZED, .. }) => return Ok(None),
        other => other?,
    };
    parse(&contents).map(Some).map_err(|source| TpmError::Malformed { command: "NV_Read", source })
}

fn parse(contents: &[u8]) -> Result<Promised, Malformed> {
    let mut r = Reader::new(contents);
    if r.take(FORM.len(), "the form")? != FORM {
        return Err(Malformed::Unexpected { what: "the form", got: 0 });
    }
    let mut union = [0; 32];
    union.copy_from_slice(r.take(32, "the union")?);
    let number = r.u64("the number")?;
    r.end()?;
    Ok(Promised { union: union.into(), number })
}

/// Writes that this was promised. A number of the same union that is not higher changes nothing.
///
/// # Errors
/// See [`prepare`].
pub fn raise(client: &mut Client, to: Promised) -> Result<(), TpmError> {
    match read(client)? {
        Some(now) if now.union == to.union && now.number >= to.number => Ok(()),
        // It is there, and ours.
        Some(_) => write(client, to),
        None => set(client, to),
    }
}

/// The same whatever was there: what was promised before is given up.
///
/// # Errors
/// See [`prepare`].
pub fn set(client: &mut Client, to: Promised) -> Result<(), TpmError> {
    prepare(client)?;
    write(client, to)
}

fn write(client: &mut Client, to: Promised) -> Result<(), TpmError> {
    let union: [u8; 32] = to.union.digest().0;
    client.nv_write(handle::PROMISES, &Writer::new().bytes(FORM).bytes(&union).u64(to.number).done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_another_form_are_nobodys_promise() {
        let good = Writer::new().bytes(FORM).bytes(&[7; 32]).u64(9).done();
        assert_eq!(good.len(), SIZE);
        assert_eq!(parse(&good).unwrap(), Promised { union: [7; 32].into(), number: 9 });
        for n in 0..good.len() {
            assert!(parse(&good[..n]).is_err());
        }
        assert!(parse(&[&good[..], &[0]].concat()).is_err());
        assert!(parse(&[0; SIZE]).is_err());
    }

    #[test]
    fn an_index_of_another_kind_is_not_taken_for_ours() {
        assert!(ours(PUBLIC).is_ok());
        assert!(ours(NvPublic { attributes: PUBLIC.attributes | nv::WRITTEN, ..PUBLIC }).is_ok());
        // A counter, an orderly one, another size.
        for other in [1 << 4, 1 << 26] {
            assert!(ours(NvPublic { attributes: PUBLIC.attributes | other, ..PUBLIC }).is_err());
        }
        assert!(ours(NvPublic { size: 8, ..PUBLIC }).is_err());
    }
}
