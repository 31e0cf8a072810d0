//! The page of `nanoctrl top`: sums, the services, the agents.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::text::{Line, Text};
use slimerpc::control::obs::{
    ObsRecord, ObsState, SlimerpcPeerState, SlimerpcService, SlimerpcServiceState,
};

use super::list::{Cell, Column, List};
use crate::obs::Found;
use crate::obs::units::{age, bandwidth, bytes};
use crate::output::{escaped, printable};

const KEYS: &str = "q quit   ←→ column   ↑↓ order   Tab list   PgUp PgDn scroll";

// Each fits a terminal of 80 columns, with a space between two.
const SERVICES: &[Column] = &[
    text("SERVICE", 11),
    text("AGENT", 11),
    text("STATE", 7),
    number("CALLS/s", 8),
    number("p50 us", 7),
    number("p99 us", 7),
    number("BUSY", 6),
    number("ERRORS", 7),
    number("RESTART", 8),
];

const AGENTS: &[Column] = &[
    text("AGENT", 12),
    text("STATE", 7),
    text("HOST", 10),
    number("AGE", 5),
    number("ALIVE", 6),
    number("GONE", 5),
    number("MEMORY", 8),
    number("CALLS/s", 8),
    number("BW", 9),
];

const fn text(head: &'static str, width: u16) -> Column {
    Column {
        head,
        width,
        is_number: false,
    }
}

const fn number(head: &'static str, width: u16) -> Column {
    Column {
        head,
        width,
        is_number: true,
    }
}

/// What is shown.
pub(super) struct Page {
    /// What stands above the lists.
    head: [String; 2],
    services: List,
    agents: List,
    is_at_agents: bool,
    /// Why the last look failed.
    failure: Option<String>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            head: ["reading ..".to_owned(), String::new()],
            services: List::new("services", SERVICES, 3),
            agents: List::new("agents", AGENTS, 1),
            is_at_agents: false,
            failure: None,
        }
    }
}

impl Page {
    /// Shows what was found last.
    pub(super) fn show(&mut self, found: Found) {
        self.failure = None;
        let records = &found.scan.records;
        let state = |record: &ObsRecord| record.state(found.now_ms, found.stale);
        let count = |which| records.iter().filter(|it| state(it) == which).count();
        let scope = match &*found.scope {
            "" => "(none)".to_owned(),
            scope => printable(scope),
        };
        // What one did that is not there says nothing about now.
        let alive = records.iter().filter(|it| state(it) == ObsState::Alive);
        let rate: f64 = alive.map(served).sum();
        self.head = [
            format!("{}  scope {scope}", found.redis),
            format!(
                "agents: {} alive, {} stale, {} stopped   calls: {}/s   unreadable records: {}",
                count(ObsState::Alive),
                count(ObsState::Stale),
                count(ObsState::Stopped),
                short(rate),
                found.scan.skipped_total + found.scan.left_out,
            ),
        ];
        let services = records.iter().flat_map(|record| {
            let ours = record.slimerpc.iter().flat_map(|ours| &ours.services);
            let state = state(record);
            ours.map(move |service| service_row(record, state, service))
        });
        self.services.set(services.collect());
        let agents = records.iter().map(|record| agent_row(record, &found));
        self.agents.set(agents.collect());
    }

    /// Shows why there is nothing new.
    pub(super) fn fail(&mut self, why: String) {
        self.failure = Some(why);
    }

    /// The list that keys are for.
    pub(super) fn list(&mut self) -> &mut List {
        match self.is_at_agents {
            true => &mut self.agents,
            false => &mut self.services,
        }
    }

    /// Chooses the other list.
    pub(super) fn switch(&mut self) {
        self.is_at_agents = !self.is_at_agents;
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = [
            Constraint::Length(2),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ];
        let [head, services, agents, foot] = Layout::vertical(rows).areas(frame.area());
        let lines = self.head.iter().map(|line| Line::raw(line.as_str()));
        frame.render_widget(Text::from_iter(lines), head);
        self.services.draw(frame, services, !self.is_at_agents);
        self.agents.draw(frame, agents, self.is_at_agents);
        let foot_line = match &self.failure {
            Some(why) => escaped(why.chars()),
            None => KEYS.to_owned(),
        };
        frame.render_widget(Line::raw(foot_line), foot);
    }
}

fn service_row(record: &ObsRecord, agent: ObsState, service: &SlimerpcService) -> Vec<Cell> {
    let methods = &service.methods;
    // Of the method that is called most.
    let busiest = methods
        .iter()
        .max_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let micros = |time: f64| Cell::number(time, short(time));
    let sum = |of: fn(&slimerpc::control::obs::SlimerpcMethod) -> u64| -> u64 {
        methods.iter().map(of).fold(0, u64::saturating_add)
    };
    let (errors, in_flight) = (sum(|it| it.errors), sum(|it| it.in_flight));
    let in_flight = in_flight.max(service.in_flight);
    let state = match (agent, service.state) {
        (ObsState::Alive, SlimerpcServiceState::Up) => "up",
        (ObsState::Alive, SlimerpcServiceState::Restarting) => "restart",
        (ObsState::Alive, SlimerpcServiceState::Down) => "down",
        (ObsState::Alive, SlimerpcServiceState::Unknown) => "?",
        (ObsState::Stale, _) => "stale",
        (ObsState::Stopped, _) => "stopped",
    };
    let rate = match agent {
        ObsState::Alive => rate_of(service),
        ObsState::Stale | ObsState::Stopped => 0.0,
    };
    vec![
        Cell::text(printable(&service.name)),
        Cell::text(printable(&record.peer_id)),
        Cell::text(state),
        Cell::number(rate, short(rate)),
        micros(busiest.map_or(0.0, |it| it.p50_us)),
        micros(busiest.map_or(0.0, |it| it.p99_us)),
        count(in_flight),
        count(errors),
        count(service.restarts),
    ]
}

fn agent_row(record: &ObsRecord, found: &Found) -> Vec<Cell> {
    let ours = record.slimerpc.as_ref();
    let peers = ours.map_or(&[][..], |ours| &ours.peers);
    let of = |state| peers.iter().filter(|it| it.state == state).count() as u64;
    let connected = record.connections.iter().filter(|it| it.connected).count() as u64;
    let alive = match ours {
        Some(_) => of(SlimerpcPeerState::Alive),
        None => connected,
    };
    let old = record.age(found.now_ms);
    let memory = u64::try_from(record.summary.mr_bytes).unwrap_or(0);
    let state = record.state(found.now_ms, found.stale);
    let rate = match state {
        ObsState::Alive => served(record),
        ObsState::Stale | ObsState::Stopped => 0.0,
    };
    vec![
        Cell::text(printable(&record.peer_id)),
        Cell::text(state.to_string()),
        Cell::text(printable(&record.host)),
        Cell::number(old.as_secs_f64(), age(old)),
        count(alive),
        count(of(SlimerpcPeerState::Gone) + of(SlimerpcPeerState::Stalled)),
        Cell::number(memory as f64, bytes(memory)),
        Cell::number(rate, short(rate)),
        Cell::number(
            record.ewma_bandwidth_bps,
            bandwidth(record.ewma_bandwidth_bps),
        ),
    ]
}

/// Calls a second of all services of an agent.
fn served(record: &ObsRecord) -> f64 {
    let ours = record.slimerpc.iter();
    ours.flat_map(|ours| &ours.services).map(rate_of).sum()
}

fn rate_of(service: &SlimerpcService) -> f64 {
    service.methods.iter().map(|method| method.per_second).sum()
}

fn count(count: u64) -> Cell {
    Cell::number(count as f64, short(count as f64))
}

/// A number in at most six characters.
fn short(number: f64) -> String {
    // A sum of nothing is -0.
    match number + 0.0 {
        0.0..10.0 if number.fract() != 0.0 => format!("{number:.1}"),
        ..100_000.0 => format!("{number:.0}"),
        ..10_000_000.0 => format!("{:.0}k", number / 1e3),
        ..10_000_000_000.0 => format!("{:.0}M", number / 1e6),
        _ => format!("{number:.0e}"),
    }
}
