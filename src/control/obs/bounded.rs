//! Reads names, lists and maps of records of others, and cuts them at their limits while they are
//! read: a record of 1 MiB could otherwise ask for a hundred times as much memory.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ObsRecord;

/// Most operations that a device counts by name, and most counts of one.
const MOST_OPERATIONS: usize = 64;

/// Cuts a name to its limit.
pub(super) fn cut(name: &mut String) {
    if name.len() > ObsRecord::LONGEST_NAME {
        let end = (0..=ObsRecord::LONGEST_NAME)
            .rev()
            .find(|&at| name.is_char_boundary(at));
        name.truncate(end.unwrap_or(0));
        name.shrink_to_fit();
    }
}

/// A text of limited length; nothing counts as empty.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(some_text(from)?.unwrap_or_default())
}

/// A text of limited length, or nothing.
pub(super) fn some_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let mut name = Option::<String>::deserialize(from)?;
    if let Some(name) = &mut name {
        cut(name);
    }
    Ok(name)
}

/// The first `MOST` items of a list.
pub(super) fn list<'de, D, T, const MOST: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Items<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while items.len() < MOST {
                match list.next_element()? {
                    Some(item) => items.push(item),
                    None => return Ok(items),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(items)
        }
    }

    from.deserialize_seq(Items::<T, MOST>(PhantomData))
}

/// The first `MOST` entries of a map.
pub(super) fn map<'de, D, T, const MOST: usize>(from: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Entries<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<T, MOST> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while entries.len() < MOST {
                match map.next_entry::<String, T>()? {
                    Some((mut name, value)) => {
                        cut(&mut name);
                        entries.insert(name, value);
                    }
                    None => return Ok(entries),
                }
            }
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(entries)
        }
    }

    from.deserialize_map(Entries::<T, MOST>(PhantomData))
}

/// Counts by name, of each operation.
pub(super) fn counts<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, BTreeMap<String, i64>>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Counts(
        #[serde(deserialize_with = "map::<_, _, MOST_OPERATIONS>")] BTreeMap<String, i64>,
    );

    let operations = map::<D, Counts, MOST_OPERATIONS>(from)?;
    let counts = operations
        .into_iter()
        .map(|(name, Counts(counts))| (name, counts));
    Ok(counts.collect())
}
