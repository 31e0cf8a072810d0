//! A row of the table: what was measured, what it is compared with, and what is wanted.

use crate::support::record::{Record, rounded};

#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Micros,
    Millis,
    Seconds,
    PerSecond,
    Percent,
    Kibibytes,
    /// Of whatever, for each call.
    EachCall,
    /// Of whatever, for each agent.
    EachAgent,
    /// A part of what it would be if all had the same.
    Share,
}

pub(crate) struct Row {
    what: String,
    value: f64,
    unit: Unit,
    base: Option<(String, f64)>,
    targets: Vec<(String, bool)>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            base: None,
            targets: Vec::new(),
        }
    }

    /// What it is compared with, in the same unit.
    pub(crate) fn against(mut self, what: impl Into<String>, value: f64) -> Self {
        self.base = Some((what.into(), value));
        self
    }

    pub(crate) fn at_most(self, limit: f64) -> Self {
        let met = self.value <= limit;
        let text = format!("<= {}", self.unit.short(limit));
        self.target(text, met)
    }

    pub(crate) fn under(self, limit: f64) -> Self {
        let met = self.value < limit;
        let text = format!("< {}", self.unit.short(limit));
        self.target(text, met)
    }

    pub(crate) fn at_least(self, limit: f64) -> Self {
        let met = self.value >= limit;
        let text = format!(">= {}", self.unit.short(limit));
        self.target(text, met)
    }

    /// At most so many times what it is compared with.
    pub(crate) fn at_most_times(self, times: f64) -> Self {
        self.at_most_times_and(times, 0.0)
    }

    /// And so much more.
    pub(crate) fn at_most_times_and(self, times: f64, more: f64) -> Self {
        let met = self.value <= times * self.base_value() + more;
        let more = match more {
            0.0 => String::new(),
            more => format!(" + {}", self.unit.short(more)),
        };
        self.target(format!("<= {times}x{more}"), met)
    }

    pub(crate) fn at_least_times(self, times: f64) -> Self {
        let met = self.value >= times * self.base_value();
        self.target(format!(">= {times}x"), met)
    }

    /// None of it, but for what happens now and then beside the calls.
    pub(crate) fn none(self) -> Self {
        let met = self.value < 0.001;
        self.target("0".to_owned(), met)
    }

    fn target(mut self, text: String, is_met: bool) -> Self {
        self.targets.push((text, is_met));
        self
    }

    fn base_value(&self) -> f64 {
        self.base.as_ref().map_or(f64::NAN, |(_, value)| *value)
    }

    fn ratio(&self) -> Option<f64> {
        self.base.as_ref().map(|(_, base)| self.value / base)
    }

    fn wanted(&self) -> String {
        let texts: Vec<_> = self.targets.iter().map(|(text, _)| text.as_str()).collect();
        texts.join(", ")
    }

    /// `None` if nothing is wanted.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let all = self.targets.iter().all(|(_, is_met)| *is_met);
        (!self.targets.is_empty()).then_some(all)
    }

    fn met(&self) -> &'static str {
        match self.is_met() {
            None => "",
            Some(true) => "yes",
            Some(false) => "no",
        }
    }

    pub(crate) fn line(&self) -> String {
        let base = self.base.as_ref().map_or_else(String::new, |(what, base)| {
            format!("{what} {}", self.unit.written(*base))
        });
        let ratio = self.ratio().map_or_else(String::new, |ratio| {
            format!("{ratio:.*}", if ratio < 0.1 { 3 } else { 2 })
        });
        format!(
            "  {:<52} {:>13}  {base:<26} {ratio:>7}  {:<18} {}",
            self.what,
            self.unit.written(self.value),
            self.wanted(),
            self.met()
        )
        .trim_end()
        .to_owned()
    }

    pub(crate) fn record(&self, subset: &str) -> Record {
        let base = self.base.as_ref();
        Record {
            subset: subset.to_owned(),
            what: self.what.clone(),
            value: Some(rounded(self.value)),
            unit: self.unit.name().to_owned(),
            against: base.map_or_else(String::new, |(what, _)| what.clone()),
            ratio: self.ratio().map(rounded),
            target: self.wanted(),
            met: self.met().to_owned(),
            ..Record::default()
        }
    }
}

/// Above the rows.
pub(crate) fn title(subset: &str) -> String {
    format!(
        "\n{subset:<54} {:>13}  {:<26} {:>7}  {:<18} met",
        "measured", "against", "ratio", "target"
    )
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Micros => "us",
            Self::Millis => "ms",
            Self::Seconds => "s",
            Self::PerSecond => "/s",
            Self::Percent => "%",
            Self::Kibibytes => "KiB",
            Self::EachCall => "a call",
            Self::EachAgent => "an agent",
            Self::Share => "of a share",
        }
    }

    fn written(self, value: f64) -> String {
        let name = self.name();
        match self {
            Self::PerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond if value >= 1e4 => format!("{:.0} k/s", value / 1e3),
            Self::EachCall => format!("{value:.4} {name}"),
            Self::Kibibytes => format!("{value:.1} {name}"),
            _ => format!("{value:.2} {name}"),
        }
    }

    /// For limits, which are round.
    fn short(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 1e6 => format!("{} M/s", value / 1e6),
            Self::EachCall | Self::Share => value.to_string(),
            _ => format!("{value} {}", self.name()),
        }
    }
}
