//! The commands of a conversation.

/// What the user typed, if it begins with a slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `/help`
    Help,
    /// `/reset`
    Reset,
    /// `/stats`
    Stats,
    /// `/placement`
    Placement,
    /// `/quit`
    Quit,
}

/// What `/help` prints.
pub const HELP: &str = "\
/help       this list
/reset      forget the conversation
/stats      tokens and times of the last reply, and hits of the cache of experts
/placement  where the model's tensors are, and what the cache of experts holds
/quit       leave, as Ctrl-D does
Ctrl-C stops a reply.";

impl Command {
    /// The command, or nothing if there is none of this name.
    pub fn parse(line: &str) -> Option<Self> {
        Some(match line {
            "/help" => Self::Help,
            "/reset" => Self::Reset,
            "/stats" => Self::Stats,
            "/placement" => Self::Placement,
            "/quit" => Self::Quit,
            _ => return None,
        })
    }
}
