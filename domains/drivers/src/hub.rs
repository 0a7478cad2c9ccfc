//! What the watchers hear: each box's present state, then every change. In memory only; after a restart the boxes'
//! records tell it again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gtvp_ipc::drivers::{BoxEvent, BoxHappening};
use gtvp_model::ids::Slot;

use crate::inbox::Inbox;

/// The boxes' states and who watches them.
#[derive(Default)]
pub struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    present: BTreeMap<Slot, Vec<BoxHappening>>,
    watchers: Vec<Weak<Inbox<BoxEvent>>>,
}

impl Hub {
    /// Something happened to a box.
    pub fn emit(&self, slot: Slot, what: BoxHappening) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match &what {
            BoxHappening::Notice { .. } | BoxHappening::Current | BoxHappening::AsksAboutPeer { .. } => {}
            // How it ended stays to be told to who comes later.
            BoxHappening::Gone => inner.present.entry(slot).or_default().push(what.clone()),
            _ => drop(inner.present.insert(slot, vec![what.clone()])),
        }
        let event = BoxEvent { slot, what };
        // One that does not read is dropped: its inbox says so to its thread.
        inner.watchers.retain(|w| w.upgrade().is_some_and(|w| w.push(event.clone())));
    }

    /// Like [`Self::emit`]; whether anybody hears it.
    pub fn pass_on(&self, slot: Slot, what: BoxHappening) -> bool {
        self.emit(slot, what);
        !self.inner.lock().unwrap_or_else(PoisonError::into_inner).watchers.is_empty()
    }

    /// A box starts: what was said of the one before in its slot is over.
    pub fn forget(&self, slot: Slot) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).present.remove(&slot);
    }

    /// Hear of everything from now on, the present first.
    pub fn watch(&self) -> std::io::Result<Arc<Inbox<BoxEvent>>> {
        let inbox = Arc::new(Inbox::new()?);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, happenings) in &inner.present {
            for what in happenings {
                inbox.push(BoxEvent { slot: *slot, what: what.clone() });
            }
        }
        if let Some(any) = Slot::new(0) {
            inbox.push(BoxEvent { slot: any, what: BoxHappening::Current });
        }
        inner.watchers.push(Arc::downgrade(&inbox));
        Ok(inbox)
    }

    /// Whether `inbox` still hears everything.
    pub fn hears(&self, inbox: &Arc<Inbox<BoxEvent>>) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.watchers.iter().any(|w| std::ptr::eq(w.as_ptr(), Arc::as_ptr(inbox)))
    }
}
