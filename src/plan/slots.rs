//! Backends in the order of their keys, as the route table has them for each app.

use super::routes::Endpoint;

/// A backend and where it came from.
#[derive(Debug, Clone)]
pub struct Slot<B> {
    /// Its address and incarnation.
    pub endpoint: Endpoint,
    /// Its run-time half.
    pub backend: B,
}

/// Takes the slot of a key out.
pub(super) fn take_slot<B>(slots: &mut Vec<Slot<B>>, key: &str) -> Option<B> {
    let at = slots
        .binary_search_by(|slot| slot.endpoint.key.as_str().cmp(key))
        .ok()?;
    Some(slots.remove(at).backend)
}

/// Puts an endpoint in its place; gives back the incarnation that it replaces. The same incarnation
/// again changes nothing.
pub(super) fn put_slot<B>(
    slots: &mut Vec<Slot<B>>,
    endpoint: Endpoint,
    make: &mut dyn FnMut(&Endpoint) -> B,
) -> Option<B> {
    match slots.binary_search_by(|slot| slot.endpoint.key.cmp(&endpoint.key)) {
        Ok(at) if slots[at].endpoint == endpoint => None,
        Ok(at) => {
            let backend = make(&endpoint);
            Some(std::mem::replace(&mut slots[at], Slot { endpoint, backend }).backend)
        }
        Err(at) => {
            let backend = make(&endpoint);
            slots.insert(at, Slot { endpoint, backend });
            None
        }
    }
}
