//! The other process of a bench: the same program once more, which we talk with line by line.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Result;

/// It ends with us.
pub(crate) struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it as the peer of the agents that `url` knows.
    pub(crate) fn start(url: &str, args: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--peer-of", url])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().ok_or("no stdin")?;
        let from = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        Ok(Self { child, to, from })
    }

    /// The next thing that it says.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(format!("the peer's process has ended ({status}), see above").into());
        }
        Ok(line.trim().to_owned())
    }

    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.to, "{line}")?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = writeln!(self.to);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
