//! Reading settings from the environment, once, with all mistakes reported together.

use std::{collections::BTreeMap, env, fmt, str::FromStr};

use secrecy::SecretString;

/// The exit code for wrong settings (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// All that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is wrong:\n{}", .0.join("\n"))]
pub struct ConfigError(
    /// One line for each mistake, naming its variable.
    pub Vec<String>,
);

/// The variables to read settings from, and the mistakes found so far.
#[derive(Default)]
pub struct Vars {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values can be secrets.
        f.debug_struct("Vars")
            .field("names", &self.values.keys())
            .field("problems", &self.problems)
            .finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Vars {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self {
            values: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            problems: Vec::new(),
        }
    }
}

impl Vars {
    /// The variables of this process. Those that are not Unicode are left out.
    pub fn from_process() -> Self {
        env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    /// The value as it stands; an empty one counts as absent.
    pub fn text(&self, name: &str) -> Option<String> {
        self.values
            .get(name)
            .map(|v| v.trim())
            .filter(|v| !v.is_empty())
            .map(str::to_owned)
    }

    /// A secret; an empty one counts as absent.
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.text(name).map(SecretString::from)
    }

    /// A value that must be there. `example` is shown when it is not.
    pub fn required(&mut self, name: &str, example: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.problem(name, &format!("is not set; expected something like {example}"));
            String::new()
        })
    }

    /// A parsed value, if there is one. A value that does not parse is a mistake.
    pub fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problem(name, &format!("does not read as {expected}"));
        }
        parsed
    }

    /// A parsed value, or the default.
    pub fn parsed_or<T: FromStr>(&mut self, name: &str, expected: &str, default: T) -> T {
        self.parsed(name, expected).unwrap_or(default)
    }

    /// Notes a mistake about a variable. `what` must not repeat the value: it can be a secret.
    pub fn problem(&mut self, name: &str, what: &str) {
        self.problems.push(format!("  {name} {what}"));
    }

    /// Ends the reading: the settings, unless a mistake was noted.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn finish<T>(self, settings: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            Ok(settings)
        } else {
            Err(ConfigError(self.problems))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_and_none_shows_a_value() {
        let mut vars: Vars = [("PORT", "secret-port"), ("EMPTY", "  ")].into_iter().collect();
        let port: u16 = vars.parsed_or("PORT", "a port", 1);
        assert_eq!((port, vars.text("EMPTY")), (1, None));
        vars.required("DATABASE_URL", "postgres://…");
        let ConfigError(problems) = vars.finish(()).unwrap_err();
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("PORT") && problems[1].contains("DATABASE_URL"));
        assert!(!problems.concat().contains("secret-port"));
    }
}
