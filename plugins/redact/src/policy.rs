//! Which rules hold for an event: the common ones and those of every group that names its namespace, compiled together.

use std::cell::RefCell;
use std::rc::Rc;

use plugin_sdk::prelude::*;
use plugin_sdk::rules::{Default as Rest, Rules};

use crate::config::{Config, Group, Rule, Unnamed, What};
use crate::find::{Finds, Kind, MAX_FINDS, Regexes, Search};

/// A checked configuration, compiled as far as it was needed.
#[derive(Debug)]
pub(crate) struct Policy {
    config: Config,
    /// For events that no group is for.
    common: Rc<Compiled>,
    /// By the numbers of the groups in them.
    compiled: RefCell<Vec<(Vec<usize>, Rc<Compiled>)>>,
}

/// The rules of one set of groups.
#[derive(Debug)]
struct Compiled {
    rules: Rules,
    finds: Option<Finds>,
    /// The marks of value rules without a path.
    everywhere: u64,
}

impl Policy {
    /// Compiles each group with the common rules, so that whatever is wrong shows here.
    pub(crate) fn new(text: &str) -> Result<Policy, String> {
        let config = Config::read(text)?;
        let common = Rc::new(config.compile(&[])?);
        let mut compiled = Vec::with_capacity(config.groups.len());
        for group in 0..config.groups.len() {
            compiled.push((vec![group], Rc::new(config.compile(&[group])?)));
        }
        if config.groups.len() > 1 {
            // Events of several groups: all rules together must fit, too.
            config.compile(&(0..config.groups.len()).collect::<Vec<_>>())?;
        }
        Ok(Policy { config, common, compiled: RefCell::new(compiled) })
    }

    pub(crate) fn apply(&self, event: Event<'_>, out: &mut Output<'_>) -> Result<Verdict, String> {
        let compiled = self.compiled(&event)?;
        match &compiled.finds {
            None => event.redact(out, &compiled.rules),
            Some(finds) => {
                let search = Search { finds, everywhere: compiled.everywhere };
                event.redact_and_inspect(out, &compiled.rules, search)
            }
        }
    }

    fn compiled(&self, event: &Event<'_>) -> Result<Rc<Compiled>, String> {
        let groups: Vec<usize> = self
            .config
            .groups
            .iter()
            .enumerate()
            .filter(|(_, (names, _))| names.iter().any(|name| name.covers(event)))
            .map(|(i, _)| i)
            .collect();
        if groups.is_empty() {
            return Ok(self.common.clone());
        }
        let mut compiled = self.compiled.borrow_mut();
        if let Some((_, found)) = compiled.iter().find(|(of, _)| *of == groups) {
            return Ok(found.clone());
        }
        let new = Rc::new(self.config.compile(&groups)?);
        compiled.push((groups, new.clone()));
        Ok(new)
    }
}

impl Config {
    fn compile(&self, groups: &[usize]) -> Result<Compiled, String> {
        let chosen: Vec<(String, &Group)> = std::iter::once(("config: rules".into(), &self.common))
            .chain(groups.iter().map(|i| (format!("config: namespaces[{i}].rules"), &self.groups[*i].1)))
            .collect();
        let rest = match chosen.iter().filter_map(|(_, group)| group.allow).max() {
            None => Rest::Keep,
            Some(Unnamed::Mask) => Rest::Mask,
            Some(Unnamed::Remove) => Rest::Remove,
        };
        let (mut paths, mut places, mut marks, mut finds) = (vec![], vec![], vec![], vec![]);
        let (mut patterns, mut everywhere) = (vec![], 0);
        for (place, group) in &chosen {
            for (i, rule) in group.rules.iter().enumerate() {
                match rule {
                    Rule::Path(pattern, action) => {
                        paths.push((pattern.clone(), action.clone()));
                        places.push(format!("{place}[{i}]"));
                    }
                    Rule::Find(..) if finds.len() == MAX_FINDS => {
                        return Err(format!("config: there are more than {MAX_FINDS} rules with `find`"));
                    }
                    Rule::Find(pattern, what, edit) => {
                        match pattern {
                            Some(pattern) => marks.push((pattern.clone(), finds.len() as u8)),
                            None => everywhere |= 1 << finds.len(),
                        }
                        let kind = match what {
                            What::Card => Kind::Card,
                            What::Email => Kind::Email,
                            What::Iban => Kind::Iban,
                            What::Regex(pattern) => {
                                patterns.push(pattern.clone());
                                Kind::Regex(patterns.len() - 1)
                            }
                        };
                        finds.push((kind, edit.clone()));
                    }
                }
            }
        }
        let rules =
            Rules::with_marks(paths, &marks, rest).map_err(|e| match e.rule.and_then(|i| places.get(i)) {
                Some(place) => format!("{place}: {}", e.what),
                None => format!("{}: {}", chosen.last().map_or("config: rules", |(place, _)| place), e.what),
            })?;
        let regexes = match Regexes::new(patterns) {
            Ok(regexes) => regexes,
            Err(together) => {
                for (place, group) in &chosen {
                    group.check_regexes(place)?;
                }
                return Err(format!("config: the regexes of all rules together can't be used: {together}"));
            }
        };
        let finds = (!finds.is_empty()).then(|| Finds::new(finds, regexes));
        Ok(Compiled { rules, finds, everywhere })
    }
}
