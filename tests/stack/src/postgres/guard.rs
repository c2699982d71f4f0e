//! Who looks after the server's process: a small shell script that outlives us by some milliseconds.

use std::{
    io::{self, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

/// Runs the server until our end of its standard input closes, which happens however this process ends; then removes the data.
/// At the word `crash` it stops the server and keeps the data until the next word. A server that dies by itself ends it too,
/// but leaves the folder for another try.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
exec 3<&0
program=$1; data=$2; shift 2
while :; do
    "$program" -D "$data" "$@" </dev/null 3<&- &
    server=$!
    (read -r word <&3; kill -QUIT "$server"; [ "$word" = crash ] && exit 8; exit 7) &
    reader=$!
    wait "$server"
    code=$?
    kill -KILL "$reader" 2>/dev/null
    wait "$reader"
    told=$?
    [ "$told" -eq 8 ] && read -r word <&3 && continue
    break
done
rm -rf "$data"
{ [ "$told" -eq 7 ] || [ "$told" -eq 8 ]; } && rmdir "${data%/*}" 2>/dev/null
exit "$code"
"#;

/// The guard of one server.
#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    words: Option<ChildStdin>,
}

impl Guard {
    /// Starts the server with these settings; the command is a shell with the right identity, and its output is the log.
    pub(super) fn start(mut shell: Command, program: &Path, data: &Path, settings: &[String]) -> io::Result<Self> {
        shell
            .args(["-c", SCRIPT, "callbridge-postgres"])
            .arg(program)
            .arg(data)
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::piped());
        let mut process = shell.spawn()?;
        let words = process.stdin.take();
        Ok(Self { process, words })
    }

    /// Has the server stopped at once, and its data kept.
    pub(super) fn crash(&mut self) -> io::Result<()> {
        self.tell("crash\n")
    }

    /// Has it started again after that.
    pub(super) fn revive(&mut self) -> io::Result<()> {
        self.tell("start\n")
    }

    fn tell(&mut self, word: &str) -> io::Result<()> {
        let gone = || io::Error::other("it is dismissed");
        self.words.as_mut().ok_or_else(gone)?.write_all(word.as_bytes())
    }

    /// Has the server stopped and its data removed.
    pub(super) fn dismiss(&mut self) {
        self.words = None;
    }

    /// Whether the script, and with it the server, is gone.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}
