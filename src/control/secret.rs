//! Texts that must not be shown by accident.

/// A bearer token, or a URL with credentials in it. `Debug` does not show it.
///
/// ```
/// use slimerpc::control::Secret;
/// assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(..)");
/// ```
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the code that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Checks that a header can carry the text as a bearer token.
    pub(crate) fn check_token(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            return Err("it is empty");
        }
        match self.0.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(()),
            false => Err("only visible ASCII characters can be sent, and no spaces"),
        }
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_1_what_no_header_can_carry_is_no_token() {
        for text in ["", "two words", "line\r\nInjected: yes", "é", "tab\t"] {
            assert!(Secret::from(text).check_token().is_err(), "{text:?}");
        }
        assert!(Secret::from("aZ09-._~+/==").check_token().is_ok());
    }
}
