//! `println!` for programs whose output is piped into `head`.

/// As the macro of the standard library, but where that panics this ends the process: with success
/// if the reader has gone, and else with a line that says why.
macro_rules! println {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        if let Err(error) = writeln!(std::io::stdout().lock(), $($text)*) {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                std::process::exit(0);
            }
            let _ = writeln!(std::io::stderr(), "error: cannot write to standard output: {error}");
            std::process::exit(1);
        }
    }};
}
