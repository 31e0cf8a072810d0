//! Names, and lists of names, that any client may have published.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Most methods of a service, services of an agent, and the like.
const MOST: usize = 4096;

/// Longest name of a service, its type or a method, in bytes.
const LONGEST: usize = 1024;

/// Reads the name of a service, its type or a method.
pub(crate) fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    match name.len() {
        1..=LONGEST => Ok(name),
        len => Err(D::Error::custom(format_args!(
            "a name of {len} bytes, not of 1 to {LONGEST}"
        ))),
    }
}

/// Reads a list of names.
pub(crate) fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Name(String);
    impl<'de> Deserialize<'de> for Name {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            name(from).map(Self)
        }
    }
    let names = list::<Name, D>(from)?;
    Ok(names.into_iter().map(|Name(name)| name).collect())
}

/// Reads a list that is as long as an agent's or service's may be. Reading stops at the first
/// element too many.
pub(crate) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(next) = from.next_element()? {
                if list.len() == MOST {
                    return Err(A::Error::custom(format_args!("a list of more than {MOST}")));
                }
                list.push(next);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(List(PhantomData))
}
