//! The paths in rules: names joined by dots, `*` for any one name, `**` for any number of names.

/// A path in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub(crate) steps: Vec<Step>,
}

/// One name of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Whether any number of names may come before it.
    pub(crate) far: bool,
    /// The name; `None`: any.
    pub(crate) name: Option<Box<str>>,
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(path: &str) -> Result<Pattern, String> {
        if path.is_empty() {
            return Err("the path is empty; a path is names joined by dots, such as `card.pan`".into());
        }
        let mut steps = Vec::new();
        let mut far = false;
        for part in path.split('.') {
            let name = match part {
                "**" => {
                    far = true;
                    continue;
                }
                "*" => None,
                "" => {
                    return Err(format!(
                        "the path `{path}` has an empty name; names are joined by single dots"
                    ));
                }
                _ if part.contains('*') => {
                    return Err(format!(
                        "in the path `{path}`, `{part}` is not allowed: `*` stands for a whole name, `**` for any number of names"
                    ));
                }
                _ if part.ends_with(']') => {
                    return Err(format!(
                        "in the path `{path}`, `{part}` looks like an index; arrays need none: `items.sku` covers every element's"
                    ));
                }
                _ if part.contains('\0') => {
                    return Err("the path contains a zero byte, which no name can".into());
                }
                _ => Some(part.into()),
            };
            steps.push(Step { far, name });
            far = false;
        }
        // A `**` at the end may stand for no name, so the pattern covers what is before it; alone it covers every field.
        if steps.is_empty() {
            steps.push(Step { far: false, name: None });
        }
        Ok(Pattern { steps })
    }

    /// How many names it has, `**` not counted.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.steps.len()
    }
}
