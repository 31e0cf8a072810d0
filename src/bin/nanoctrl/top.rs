//! `nanoctrl top`: agents and services in a terminal, from the records that `nanoctrl obs` prints.

#[path = "top/list.rs"]
mod list;
#[path = "top/page.rs"]
mod page;

use std::error::Error;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::obs::{Found, ObsSource, PERIOD};
use crate::output::Report;

use page::Page;

/// How long a key may wait, and how soon news is shown.
const LOOK: Duration = Duration::from_millis(50);

/// What the reader of records tells.
enum News {
    Found(Box<Found>),
    Failed(String),
    /// The process is asked to end.
    Terminated,
}

pub(crate) fn top(source: ObsSource) -> Result<Report, Box<dyn Error>> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err("`nanoctrl top` needs a terminal; `nanoctrl obs` prints the same".into());
    }
    let (tell, told) = channel();
    thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || read(&source, &tell))?;
    // Both restore the terminal: the hook that this sets if there is a panic, and the end.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &told);
    ratatui::restore();
    shown?;
    Ok(Report::new(""))
}

/// Reads all records each period, until nobody wants them.
#[tokio::main(flavor = "current_thread")]
async fn read(source: &ObsSource, tell: &Sender<News>) {
    let reading = async {
        let reader = match source.reader().await {
            Ok(reader) => reader,
            // A URL that cannot be used stays so.
            Err(error) => return drop(tell.send(News::Failed(error.to_string()))),
        };
        loop {
            let news = match source.look(&reader).await {
                Ok(found) => News::Found(Box::new(found)),
                Err(error) => News::Failed(error.to_string()),
            };
            if tell.send(news).is_err() {
                return;
            }
            sleep(PERIOD).await;
        }
    };
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return reading.await;
    };
    tokio::select! {
        () = reading => {}
        _ = terminate.recv() => drop(tell.send(News::Terminated)),
    }
}

/// Shows what is told and follows the keys, until one of them ends it.
fn show(terminal: &mut DefaultTerminal, told: &Receiver<News>) -> io::Result<()> {
    let mut page = Page::default();
    let mut is_changed = true;
    loop {
        loop {
            match told.try_recv() {
                Ok(News::Found(found)) => page.show(*found),
                Ok(News::Failed(why)) => page.fail(why),
                Ok(News::Terminated) => return Ok(()),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            is_changed = true;
        }
        if std::mem::take(&mut is_changed) {
            terminal.draw(|frame| page.draw(frame))?;
        }
        if !event::poll(LOOK)? {
            continue;
        }
        is_changed = true;
        let Event::Key(key) = event::read()? else {
            // It was resized.
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let is_ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_ctrl => return Ok(()),
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Tab | KeyCode::BackTab => page.switch(),
            KeyCode::Right => page.list().sort_by_next(1),
            KeyCode::Left => page.list().sort_by_next(-1),
            KeyCode::Down => page.list().set_descending(true),
            KeyCode::Up => page.list().set_descending(false),
            KeyCode::PageDown | KeyCode::Char('j' | ' ') => page.list().scroll(1),
            KeyCode::PageUp | KeyCode::Char('k') => page.list().scroll(-1),
            KeyCode::Home => page.list().scroll_home(),
            _ => {}
        }
    }
}
