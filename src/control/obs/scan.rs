//! Finds the records of a scope, or of all, in Redis. Agents of DLSlime enter themselves into no
//! index, so keys are searched for: in small steps, which hold up nobody else in that Redis.

use super::{ObsProblem, ObsRecord};

/// The records of a scope.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ObsScan {
    /// The records, by alias in [natural order](crate::control::natural_order).
    pub records: Vec<ObsRecord>,
    /// Records that cannot be read; the first [`ObsScan::MOST_SKIPPED`] of them.
    pub skipped: Vec<SkippedObs>,
    /// How many records cannot be read.
    pub skipped_total: u64,
    /// How many records were left out, because there are more than [`ObsScan::MOST_RECORDS`], or
    /// [`ObsScan::MOST_BYTES`] of them.
    pub left_out: u64,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedObs {
    /// Its key in Redis, cut to [`ObsRecord::LONGEST_NAME`].
    pub key: String,
    /// Why it cannot be read.
    pub problem: ObsProblem,
}

impl ObsScan {
    /// Most records that are read.
    pub const MOST_RECORDS: usize = 16 * 1024;
    /// Most bytes of records that are read.
    pub const MOST_BYTES: usize = 256 << 20;
    /// Most unreadable records that are listed.
    pub const MOST_SKIPPED: usize = 16;
}

#[cfg(feature = "server")]
pub(crate) use search::{RawScan, scan, scan_all};

#[cfg(feature = "server")]
mod search {
    use std::collections::BTreeSet;

    use redis::{Pipeline, RedisError, RedisResult, Value, from_redis_value};

    use super::super::bounded;
    use super::*;
    use crate::control::keys::Keys;
    use crate::control::natural_order;

    /// Keys that one step of the search looks at.
    const STEP: usize = 1000;

    /// Most records in one answer of Redis, each up to a mebibyte.
    const BATCH: usize = 32;

    /// Longest key that is looked at, in bytes.
    const LONGEST_KEY: usize = 1024;

    /// Most bytes of records of all scopes together: a server keeps them between two readings.
    const MOST_BYTES_OF_ALL: usize = 64 << 20;

    const KIND: &[u8] = b"obs:peer:";

    /// The text of a record, or why it cannot be read.
    type Text = Result<Vec<u8>, ObsProblem>;

    /// The records of all scopes, as they were found: to make sense of them takes long.
    #[derive(Default)]
    pub(crate) struct RawScan {
        texts: Vec<(Vec<u8>, Text)>,
        /// How many records were left out.
        pub(crate) left_out: u64,
    }

    impl RawScan {
        /// The records with their scopes, and how many cannot be read.
        pub(crate) fn parse(self) -> (Vec<(String, ObsRecord)>, u64) {
            let (mut records, mut skipped) = (Vec::new(), 0);
            for (key, text) in self.texts {
                match text.map(|text| parse(&key, &text)) {
                    // It has expired since it was found.
                    Ok(None) => (),
                    Ok(Some(Ok(record))) => records.push(record),
                    Ok(Some(Err(_))) | Err(_) => skipped += 1,
                }
            }
            (records, skipped)
        }
    }

    /// Finds all records of all scopes, in one search.
    pub(crate) async fn scan_all<E>(
        ask: impl AsyncFnMut(&Pipeline) -> Result<Value, E>,
        explain: impl Fn(RedisError) -> E,
    ) -> Result<RawScan, E> {
        let mut texts = Vec::new();
        let take = |key: &[u8], text| texts.push((key[..key.len().min(LONGEST_KEY)].into(), text));
        let left_out = search("*obs:peer:*", MOST_BYTES_OF_ALL, ask, explain, take).await?;
        Ok(RawScan { texts, left_out })
    }

    /// Reads all records of the scope of `keys`. `ask` runs commands; `explain` makes an error of
    /// an answer that is one, or that is not of the expected form.
    pub(crate) async fn scan<E>(
        keys: &Keys,
        ask: impl AsyncFnMut(&Pipeline) -> Result<Value, E>,
        explain: impl Fn(RedisError) -> E,
    ) -> Result<ObsScan, E> {
        let mut found = ObsScan::default();
        let take = |key: &[u8], text: Text| match text.map(|text| parse(key, &text)) {
            Ok(None) => (),
            Ok(Some(Ok((_, record)))) => found.records.push(record),
            Ok(Some(Err(problem))) | Err(problem) => found.skip(key, problem),
        };
        found.left_out = search(&pattern(keys), ObsScan::MOST_BYTES, ask, explain, take).await?;
        let order = |a: &ObsRecord, b: &ObsRecord| natural_order(&a.peer_id, &b.peer_id);
        found.records.sort_by(order);
        Ok(found)
    }

    /// Finds records, hands them to `take` with their keys, and returns how many were left out.
    async fn search<E>(
        pattern: &str,
        most_bytes: usize,
        mut ask: impl AsyncFnMut(&Pipeline) -> Result<Value, E>,
        explain: impl Fn(RedisError) -> E,
        mut take: impl FnMut(&[u8], Text),
    ) -> Result<u64, E> {
        let (mut names, mut cursor, mut left_out) = (BTreeSet::new(), 0u64, 0);
        loop {
            let mut step = Pipeline::new();
            step.cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern);
            step.arg("COUNT").arg(STEP);
            let answer = from_redis_value(ask(&step).await?);
            let ((next, page),): ((u64, Vec<Vec<u8>>),) =
                answer.map_err(|error| explain(error.into()))?;
            for name in page {
                if split(&name).is_none() {
                    continue;
                }
                if name.len() > LONGEST_KEY {
                    let reason = "its key is longer than 1 KiB".to_owned();
                    take(&name, Err(ObsProblem::Malformed { reason }));
                    continue;
                }
                // Redis may return a name twice.
                if names.len() < ObsScan::MOST_RECORDS || names.contains(&name) {
                    names.insert(name);
                } else {
                    left_out += 1;
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let names: Vec<_> = names.into_iter().collect();
        let mut bytes = 0;
        for batch in names.chunks(BATCH) {
            if bytes >= most_bytes {
                left_out += batch.len() as u64;
                continue;
            }
            let mut get = Pipeline::new();
            get.ignore_errors();
            for name in batch {
                // One byte more than allowed, to notice longer ones.
                get.cmd("GETRANGE").arg(name).arg(0).arg(ObsRecord::LONGEST);
            }
            let answers = from_redis_value::<Vec<Value>>(ask(&get).await?);
            for (name, answer) in batch
                .iter()
                .zip(answers.map_err(|error| explain(error.into()))?)
            {
                match bytes_of(answer) {
                    Ok(text) => {
                        bytes += text.len();
                        take(name, Ok(text));
                    }
                    Err(error) if error.code() == Some("WRONGTYPE") => {
                        let reason = "Redis does not hold it as a string".to_owned();
                        take(name, Err(ObsProblem::Malformed { reason }));
                    }
                    Err(error) => return Err(explain(error)),
                }
            }
        }
        Ok(left_out)
    }

    /// The scope and the alias in the key of a record. No scope contains the kind of a key.
    fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
        if let Some(alias) = key.strip_prefix(KIND) {
            return Some((b"", alias));
        }
        let is_kind = |part: &[u8]| part[0] == b':' && &part[1..] == KIND;
        let at = key.windows(1 + KIND.len()).position(is_kind)?;
        Some((&key[..at], &key[at + 1 + KIND.len()..]))
    }

    /// The record of this key and its scope; nothing for no text.
    fn parse(key: &[u8], text: &[u8]) -> Option<Result<(String, ObsRecord), ObsProblem>> {
        if text.is_empty() {
            return None;
        }
        let scope = split(key).map(|(scope, _)| String::from_utf8_lossy(scope).into_owned());
        let scope = scope.unwrap_or_default();
        let parsed = ObsRecord::parse(text).and_then(|record| {
            match Keys::new(&*scope).obs(&record.peer_id).as_bytes() == key {
                true => Ok((scope, record)),
                false => Err(ObsProblem::OtherAgent {
                    named: record.peer_id.escape_debug().to_string(),
                }),
            }
        });
        Some(parsed)
    }

    impl ObsScan {
        fn skip(&mut self, key: &[u8], problem: ObsProblem) {
            self.skipped_total += 1;
            if self.skipped.len() < Self::MOST_SKIPPED {
                let key = &key[..key.len().min(LONGEST_KEY)];
                let mut key = String::from_utf8_lossy(key).into_owned();
                bounded::cut(&mut key);
                self.skipped.push(SkippedObs { key, problem });
            }
        }
    }

    fn bytes_of(answer: Value) -> RedisResult<Vec<u8>> {
        Ok(from_redis_value(answer.extract_error()?)?)
    }

    /// The pattern of the keys of records. A scope of DLSlime may have any characters.
    fn pattern(keys: &Keys) -> String {
        let mut pattern = String::new();
        for c in keys.obs("").chars() {
            if "*?[]\\^-".contains(c) {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        pattern
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_key_names_scope_and_alias() {
            let split = |key: &'static str| split(key.as_bytes());
            assert_eq!(split("obs:peer:w:0"), Some((&b""[..], &b"w:0"[..])));
            assert_eq!(split("a:b:obs:peer:w"), Some((&b"a:b"[..], &b"w"[..])));
            assert_eq!(split("jobs:peer:w"), None);
            assert_eq!(split("obs:peer"), None);
        }

        #[test]
        fn the_characters_of_a_scope_are_no_pattern() {
            assert_eq!(pattern(&Keys::new("")), "obs:peer:*");
            assert_eq!(pattern(&Keys::new("a*[b]\\")), "a\\*\\[b\\]\\\\:obs:peer:*");
        }
    }
}
