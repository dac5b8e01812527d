//! The host's own tools: what volumes need of the machine and no call of the kernel gives.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where tools are.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// A tool, and the package of Debian that has it: who misses it reads what to install.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The file's name.
    pub name: &'static str,
    /// The package.
    pub package: &'static str,
}

/// What a tool ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolOutput {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Its output.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

impl ToolOutput {
    /// Its output if it succeeded; otherwise what it said, in a line.
    pub fn success(self, tool: &str) -> Result<String, String> {
        if self.code == Some(0) {
            return Ok(self.out);
        }
        let code = self
            .code
            .map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        let said = if self.err.trim().is_empty() {
            self.out
        } else {
            self.err
        };
        Err(format!("{tool} ended with {code}: {}", said.trim()))
    }
}

impl Tool {
    /// Where this machine has it.
    fn place(self) -> Result<PathBuf, String> {
        let mut all = FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(self.name));
        all.find(|path| path.exists()).ok_or_else(|| {
            format!(
                "this node has no {} (Debian's package {})",
                self.name, self.package
            )
        })
    }

    /// Runs it until it ends, or kills it when `patience` does. Arguments are seen by everybody on
    /// the machine: never a secret.
    ///
    /// # Errors
    /// Why it did not run to its end; what it ended with is for the caller to read.
    pub async fn run(self, args: &[String], patience: Duration) -> Result<ToolOutput, String> {
        let mut command = tokio::process::Command::new(self.place()?);
        command.args(args).kill_on_drop(true);
        let done = tokio::time::timeout(patience, command.output()).await;
        let done = done.map_err(|_| format!("{} has not ended after {patience:?}", self.name))?;
        let done = done.map_err(|e| format!("{}: {e}", self.name))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(ToolOutput {
            code: done.status.code(),
            out: text(&done.stdout),
            err: text(&done.stderr),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_says_how_it_ended() {
        let tool = |name| Tool {
            name,
            package: "some-package",
        };
        let second = Duration::from_secs(60);
        let shell = |line: &str| vec!["-c".to_owned(), line.to_owned()];
        let line = shell("echo x; echo why >&2; exit 3");
        let said = tool("sh").run(&line, second).await.unwrap();
        assert_eq!((said.code, said.out.as_str()), (Some(3), "x\n"));
        let why = said.success("sh").unwrap_err();
        assert_eq!(why, "sh ended with exit code 3: why");
        let none = tool("no-such-tool").run(&[], second).await.unwrap_err();
        assert!(none.contains("package some-package"), "{none}");
        let late = tool("sleep").run(&["60".to_owned()], Duration::ZERO).await;
        assert!(late.unwrap_err().contains("has not ended"));
    }
}
