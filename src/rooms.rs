//! Rooms as an application names them: one or several.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use crate::hub::Names;

/// Names of rooms, or ids of sockets: a string, or an array, slice, `Vec` or set of strings. What
/// takes this takes one room or several (`room | Room[]` in Socket.IO).
///
/// ```
/// # fn check(socket: corecast::Socket) {
/// socket.join("lobby");
/// socket.join(["lobby", "news"]);
/// socket.join(format!("user:{}", 5));
/// let rooms: Vec<String> = vec!["a".into(), "b".into()];
/// let _ = socket.to(&rooms).except("c").emit("hello", ());
/// # }
/// ```
pub trait Rooms {
    /// Calls `visit` with each name.
    fn each(&self, visit: &mut dyn FnMut(&str));
}

/// Names that can be sent to shards.
pub(crate) fn names(rooms: impl Rooms) -> Names {
    let mut names = Names::new();
    rooms.each(&mut |name| names.push(name.into()));
    names
}

impl<T: Rooms + ?Sized> Rooms for &T {
    fn each(&self, visit: &mut dyn FnMut(&str)) {
        (**self).each(visit);
    }
}

macro_rules! one {
    ($($type:ty)*) => {$(
        impl Rooms for $type {
            fn each(&self, visit: &mut dyn FnMut(&str)) {
                visit(self);
            }
        }
    )*};
}
one!(str String Box<str> Rc<str> Arc<str> Cow<'_, str>);

macro_rules! several {
    ($($type:ty)*) => {$(
        impl<T: AsRef<str>> Rooms for $type {
            fn each(&self, visit: &mut dyn FnMut(&str)) {
                self.iter().for_each(|name| visit(name.as_ref()));
            }
        }
    )*};
}
several!([T] Vec<T> BTreeSet<T>);

impl<T: AsRef<str>, const N: usize> Rooms for [T; N] {
    fn each(&self, visit: &mut dyn FnMut(&str)) {
        self.as_slice().each(visit);
    }
}

impl<T: AsRef<str>, S> Rooms for HashSet<T, S> {
    fn each(&self, visit: &mut dyn FnMut(&str)) {
        self.iter().for_each(|name| visit(name.as_ref()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(rooms: impl Rooms) -> Vec<String> {
        names(rooms).into_iter().map(String::from).collect()
    }

    #[test]
    fn one_room_or_several() {
        let text = String::from("a");
        assert_eq!([listed("a"), listed(&text), listed(text)], [["a"], ["a"], ["a"]]);
        assert_eq!(listed(Rc::<str>::from("a")), ["a"]);
        let both = ["a", "b"];
        assert_eq!(listed(both), both);
        assert_eq!(listed(&both[..]), both);
        assert_eq!(listed(both.map(String::from).to_vec()), both);
        assert_eq!(listed(BTreeSet::from(both)), both);
        assert_eq!(listed(HashSet::from(["a"])), ["a"]);
        assert_eq!(listed(Vec::<String>::new()), [""; 0]);
    }
}
