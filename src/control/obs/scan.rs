//! Finds the records of a scope in Redis. Agents of DLSlime enter themselves into no index, so keys
//! are searched for: in small steps, which hold up nobody else in that Redis.

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
pub(crate) use search::scan;

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

    /// Reads all records of the scope of `keys`. `ask` runs commands; `explain` makes an error of
    /// an answer that is one, or that is not of the expected form.
    pub(crate) async fn scan<E>(
        keys: &Keys,
        mut ask: impl AsyncFnMut(&Pipeline) -> Result<Value, E>,
        explain: impl Fn(RedisError) -> E,
    ) -> Result<ObsScan, E> {
        let mut found = ObsScan::default();
        let mut names = BTreeSet::new();
        let (pattern, mut cursor) = (pattern(keys), 0u64);
        loop {
            let mut step = Pipeline::new();
            step.cmd("SCAN").arg(cursor).arg("MATCH").arg(&pattern);
            step.arg("COUNT").arg(STEP);
            let answer = from_redis_value(ask(&step).await?);
            let ((next, page),): ((u64, Vec<Vec<u8>>),) =
                answer.map_err(|error| explain(error.into()))?;
            for name in page {
                // Redis may return a name twice.
                if names.len() < ObsScan::MOST_RECORDS || names.contains(&name) {
                    names.insert(name);
                } else {
                    found.left_out += 1;
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
            if bytes >= ObsScan::MOST_BYTES {
                found.left_out += batch.len() as u64;
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
                        found.add(keys, name, &text);
                    }
                    Err(error) if error.code() == Some("WRONGTYPE") => {
                        let reason = "Redis does not hold it as a string".to_owned();
                        found.skip(name, ObsProblem::Malformed { reason });
                    }
                    Err(error) => return Err(explain(error)),
                }
            }
        }
        let order = |a: &ObsRecord, b: &ObsRecord| natural_order(&a.peer_id, &b.peer_id);
        found.records.sort_by(order);
        Ok(found)
    }

    impl ObsScan {
        fn add(&mut self, keys: &Keys, key: &[u8], text: &[u8]) {
            // It has expired since it was found.
            if text.is_empty() {
                return;
            }
            match ObsRecord::parse(text) {
                Ok(record) if keys.obs(&record.peer_id).as_bytes() == key => {
                    self.records.push(record);
                }
                Ok(record) => {
                    let named = record.peer_id.escape_debug().to_string();
                    self.skip(key, ObsProblem::OtherAgent { named });
                }
                Err(problem) => self.skip(key, problem),
            }
        }

        fn skip(&mut self, key: &[u8], problem: ObsProblem) {
            self.skipped_total += 1;
            if self.skipped.len() < Self::MOST_SKIPPED {
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
        fn the_characters_of_a_scope_are_no_pattern() {
            assert_eq!(pattern(&Keys::new("")), "obs:peer:*");
            assert_eq!(pattern(&Keys::new("a*[b]\\")), "a\\*\\[b\\]\\\\:obs:peer:*");
        }
    }
}
