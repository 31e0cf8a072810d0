//! A log for programs that have set up none.

use slimerpc::settings::LOG;

use crate::AgentError;
use crate::agent::environment;

/// Logs to standard error what [`LOG`] says. A program that has set up a subscriber of its own
/// keeps it.
#[cfg(feature = "log")]
pub(crate) fn begin() -> Result<(), AgentError> {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;

    let Some(directives) = environment::text(LOG) else {
        return Ok(());
    };
    let filter = EnvFilter::try_new(&directives).map_err(|error| AgentError::Setting {
        name: LOG.into(),
        value: directives,
        allowed: format!("levels like info, or slimerpc_actors=debug,warn, are expected: {error}"),
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // An error means that there is a subscriber.
    let _ = log.try_init();
    Ok(())
}

/// Refuses to log.
#[cfg(not(feature = "log"))]
pub(crate) fn begin() -> Result<(), AgentError> {
    match environment::text(LOG) {
        None => Ok(()),
        Some(directives) => Err(AgentError::Setting {
            name: LOG.into(),
            value: directives,
            allowed: "it needs the cargo feature `log` of slimerpc-actors".to_owned(),
        }),
    }
}
