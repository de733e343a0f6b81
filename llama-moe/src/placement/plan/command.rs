//! The equal command line of llama.cpp.

use super::Plan;

impl Plan {
    /// The options that make llama.cpp's own programs load the model as this plan does, to be
    /// pasted into a POSIX shell: `-m 'model.gguf' -ngl 49 -ot '…=CPU' -c 8192`.
    ///
    /// Blocks for multi-token prediction ([`ModelParams::with_mtp`](crate::ModelParams::with_mtp))
    /// are the one thing that llama.cpp has no such option for. Its option for a cache of experts
    /// counts in MiB: a size between two of them is rounded up.
    #[must_use]
    pub fn command_line(&self) -> String {
        let mut options = vec![
            format!("-m {}", quoted(&self.path.to_string_lossy())),
            // llama.cpp's own choice of these would come on top otherwise.
            "-fit off".to_owned(),
        ];
        if !self.rpc_servers.is_empty() {
            options.push(format!("--rpc {}", self.rpc_servers.join(",")));
        }
        let devices: Vec<String> = self
            .devices
            .iter()
            .filter_map(|memory| Some(memory.device?.name()))
            .collect();
        if !devices.is_empty() {
            options.push(format!("-dev {}", devices.join(",")));
        } else if !self.is_estimate {
            options.push("-dev none".to_owned());
        }
        options.push(format!("-ngl {}", self.n_gpu_layers()));
        if !self.tensor_split().is_empty() {
            let parts: Vec<String> = self
                .tensor_split()
                .iter()
                .map(ToString::to_string)
                .collect();
            options.push(format!("-ts {}", parts.join(",")));
        }
        if !self.overrides.is_empty() {
            options.push(format!("-ot {}", quoted(&self.overrides)));
        }
        options.push(format!("-c {}", self.n_ctx));
        options.extend(self.context.command_options());
        options.extend(self.params.command_options());
        if let Some(replaced) = self.params.replaced_metadata() {
            options.push(format!("--override-kv {}", quoted(&replaced)));
        }
        options.push(format!("-lm {}", self.preview.load_mode()));
        options.join(" ")
    }
}

/// A word for a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
