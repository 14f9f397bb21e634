//! Values that the application keeps with a socket, and how they follow it to another shard.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::rc::Rc;

/// Takes a value out of its `Rc`, if nobody else holds it.
type Unwrap = fn(Rc<dyn Any>) -> Option<Box<dyn Any + Send>>;

/// A value, and how it leaves its shard; `None` if it must not.
#[derive(Clone)]
struct Value {
    value: Rc<dyn Any>,
    unwrap: Option<Unwrap>,
}

/// The values of one socket, one per type.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    values: HashMap<TypeId, Value>,
    /// What others may see of the socket, as JSON; empty if nothing.
    pub(crate) json: Box<str>,
}

/// Values on their way to another shard.
pub(crate) struct Sent {
    values: Vec<(TypeId, Box<dyn Any + Send>, Unwrap)>,
    json: Box<str>,
}

impl Kept {
    /// Keeps a value that may go to another shard; returns the one that was there.
    pub(crate) fn set<T: Send + 'static>(&mut self, value: T) -> Option<Rc<T>> {
        let unwrap: Unwrap = |value| {
            let value = value.downcast::<T>().ok()?;
            Some(Box::new(Rc::try_unwrap(value).ok()?))
        };
        self.insert(value, Some(unwrap))
    }

    /// Keeps a value that stays on its shard; returns the one that was there.
    pub(crate) fn set_local<T: 'static>(&mut self, value: T) -> Option<Rc<T>> {
        self.insert(value, None)
    }

    fn insert<T: 'static>(&mut self, value: T, unwrap: Option<Unwrap>) -> Option<Rc<T>> {
        let value = Value { value: Rc::new(value), unwrap };
        self.values.insert(TypeId::of::<T>(), value)?.value.downcast().ok()
    }

    /// The value of a type.
    pub(crate) fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.values.get(&TypeId::of::<T>())?.value.clone().downcast().ok()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.json.is_empty()
    }

    /// Takes out what may go to another shard and that nobody here holds; the rest is dropped.
    pub(crate) fn send(self) -> Sent {
        let send = |(id, Value { value, unwrap }): (TypeId, Value)| {
            let unwrap = unwrap?;
            Some((id, unwrap(value)?, unwrap))
        };
        let Kept { values, json } = self;
        Sent { values: values.into_iter().filter_map(send).collect(), json }
    }
}

impl From<Sent> for Kept {
    fn from(sent: Sent) -> Kept {
        let keep = |(id, value, unwrap): (TypeId, Box<dyn Any + Send>, Unwrap)| {
            let value: Box<dyn Any> = value;
            (id, Value { value: value.into(), unwrap: Some(unwrap) })
        };
        let Sent { values, json } = sent;
        Kept { values: values.into_iter().map(keep).collect(), json }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_may_follow_a_socket_does() {
        let mut kept = Kept::default();
        assert_eq!(kept.set(1u8), None);
        assert_eq!(kept.set(2u8).as_deref(), Some(&1));
        kept.set(RefCell::new(String::from("a")));
        kept.set(7i64);
        kept.set_local(Rc::new(3u16));
        kept.json = "{}".into();
        let held = kept.get::<i64>();
        let sent = std::thread::spawn({
            let sent = kept.send();
            move || sent
        });
        let kept = Kept::from(sent.join().expect("no panic"));
        assert_eq!(kept.get::<u8>().as_deref(), Some(&2));
        assert_eq!(kept.get::<RefCell<String>>().map(|it| it.take()), Some("a".into()));
        assert_eq!(kept.get::<i64>(), None, "one that is held here stays");
        assert_eq!((held.as_deref(), kept.get::<Rc<u16>>()), (Some(&7), None));
        assert!(!kept.is_empty() && &*kept.json == "{}");
    }
}
