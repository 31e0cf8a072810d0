//! Natural order of names: `worker:2` before `worker:10`.

use std::cmp::Ordering;

/// Compares two names; runs of digits count as numbers. Different names are never equal.
///
/// ```
/// use slimerpc::control::natural_order;
/// let mut names = ["worker:10", "worker:2"];
/// names.sort_by(|a, b| natural_order(a, b));
/// assert_eq!(names, ["worker:2", "worker:10"]);
/// ```
pub fn natural_order(a: &str, b: &str) -> Ordering {
    runs(a).cmp(runs(b)).then_with(|| a.cmp(b))
}

/// A part of a name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Run<'a> {
    /// Number of digits and digits, without leading zeros.
    Number(usize, &'a str),
    Text(&'a str),
}

fn runs(name: &str) -> impl Iterator<Item = Run<'_>> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_number = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_number);
        let (run, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(if is_number {
            let digits = run.trim_start_matches('0');
            Run::Number(digits.len(), digits)
        } else {
            Run::Text(run)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_counted() {
        let mut names = [
            "worker:10",
            "worker:2",
            "b",
            "worker:1",
            "worker",
            "worker:1:10",
            "worker:1:9",
            "7",
            "worker:01",
            "wörker:0",
            "worker:184467440737095516160",
            "worker:184467440737095516159",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            [
                "7",
                "b",
                "worker",
                "worker:01",
                "worker:1",
                "worker:1:9",
                "worker:1:10",
                "worker:2",
                "worker:10",
                "worker:184467440737095516159",
                "worker:184467440737095516160",
                "wörker:0",
            ]
        );
    }

    #[test]
    fn different_names_are_never_equal() {
        assert_ne!(natural_order("a01", "a1"), Ordering::Equal);
        assert_eq!(natural_order("a0", "a0"), Ordering::Equal);
        assert_eq!(natural_order("", "a"), Ordering::Less);
    }
}
