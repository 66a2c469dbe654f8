//! Who decides about a value: a guide walks along with the rewriter, name by name.

use bson_walker::{Element, kind};

use crate::value::Action;

/// What a guide says about one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing here or below is affected: copy it unseen.
    Skip,
    /// Keep it, and look below.
    Enter,
    /// Keep a document or array and look below; remove anything else.
    Hollow,
    /// Do what [`Guide::action`] gives for this number with the whole value.
    Act(u32),
    /// Remove the field, and everything that shows its name: the name itself is to be hidden.
    Erase,
}

/// A field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'n> {
    /// Its bytes.
    pub bytes: &'n [u8],
    /// Whether there is a dot among them. Such a name is to be taken as one name and as a path.
    pub has_dot: bool,
}

impl<'n> From<&Element<'n>> for Name<'n> {
    #[inline]
    fn from(element: &Element<'n>) -> Self {
        Name { bytes: element.name(), has_dot: element.name_has_dot() }
    }
}

/// Decides about values by where they stand. Must not depend on the order in which siblings are visited.
pub trait Guide<'v> {
    /// Where the walk stands.
    type State: Clone;

    /// The state at a document's top.
    fn root(&mut self) -> Self::State;

    /// Whether a field, which is no document or array, surely stays as it is: most do, and need no state. `false` says nothing.
    fn spares(&mut self, _from: &Self::State, _name: Name<'_>, _value: &Element<'_>) -> bool {
        false
    }

    /// One step into a document's field. The value is `None` where only its name is known.
    fn field(
        &mut self,
        from: &Self::State,
        name: Name<'_>,
        value: Option<&Element<'_>>,
    ) -> (Self::State, Step);

    /// One step into an array's element; also for a number in a dotted path that is taken for an index.
    fn index(
        &mut self,
        from: &Self::State,
        digits: &[u8],
        value: Option<&Element<'_>>,
    ) -> (Self::State, Step);

    /// The action of the last [`Step::Act`].
    fn action(&mut self, number: u32) -> Action<'v>;

    /// One step into a field of `detail`, where a value may stand below any number of MongoDB's own names.
    fn detail(
        &mut self,
        from: &Self::State,
        name: Name<'_>,
        value: Option<&Element<'_>>,
    ) -> (Self::State, Step) {
        self.field(from, name, value)
    }

    /// Whether a string in `detail` refers to something that is to be redacted (`"$card.pan"`), so that literals
    /// beside it may be its values.
    fn mentions(&mut self, _text: &[u8]) -> bool {
        false
    }

    /// Whether fields of `detail` are to be hidden unless they are known to hold no values.
    fn closed(&self) -> bool {
        false
    }

    /// Where a dotted path leads if some of its dots may belong to names. Asked only where the path read as plain names
    /// leads to `plain` and no action, and nothing tells the readings apart; what it returns must cover both.
    fn straddle(
        &mut self,
        _plain: &Self::State,
        _path: &[u8],
        _value: &Element<'_>,
    ) -> Option<(Self::State, Step)> {
        None
    }

    /// Whether a dotted path, some dots of which may belong to names, may contain a name that is to be erased. Asked only
    /// where nothing tells the readings apart.
    fn hides_path(&mut self, _path: &[u8]) -> bool {
        false
    }

    /// Whether a text that stands in no document (the actor's id) is to be hidden for what it is.
    fn hides_text(&mut self, _text: &[u8]) -> bool {
        false
    }

    /// What a value that is being masked shows, where that must be less than its last `keep_last` characters. Asked right
    /// after the step that masks it, or the array it stands in.
    fn masked(&mut self, _value: &Element<'_>, _keep_last: usize) -> Option<String> {
        None
    }

    /// Why the event can't be let through, whatever was done to it.
    fn refusal(&self) -> Option<String> {
        None
    }
}

/// Whether a value is no document or array. There may be a document in it, as the scope of code.
#[inline]
pub(crate) fn is_leaf(value: &Element<'_>) -> bool {
    !matches!(value.kind(), kind::DOCUMENT | kind::ARRAY)
}

/// The place of a value in its document, array indexes left out: `customer.email`.
#[derive(Debug, Clone, Copy)]
pub struct Path<'p>(&'p [u8]);

impl<'p> Path<'p> {
    /// The names, joined by dots; `"\u{FFFD}"` where they are not UTF-8.
    pub fn as_str(&self) -> &'p str {
        text(self.0)
    }

    /// The last name.
    pub fn leaf(&self) -> &'p str {
        text(self.0.rsplit(|b| *b == b'.').next().unwrap_or_default())
    }

    /// The names from the top.
    pub fn names(&self) -> impl Iterator<Item = &'p str> + use<'p> {
        self.0.split(|b| *b == b'.').map(text)
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("\u{FFFD}")
}

/// Lets a function decide.
pub(crate) struct Closure<'v, F> {
    decide: F,
    path: Vec<u8>,
    action: Action<'v>,
}

impl<'v, F> Closure<'v, F>
where
    F: FnMut(&Path<'_>, Option<&Element<'_>>) -> Action<'v>,
{
    pub(crate) fn new(decide: F) -> Self {
        Closure { decide, path: Vec::new(), action: Action::Keep }
    }

    fn ask(&mut self, value: Option<&Element<'_>>) -> Step {
        match (self.decide)(&Path(&self.path), value) {
            Action::Keep => Step::Enter,
            action => {
                self.action = action;
                Step::Act(0)
            }
        }
    }
}

impl<'v, F> Guide<'v> for Closure<'v, F>
where
    F: FnMut(&Path<'_>, Option<&Element<'_>>) -> Action<'v>,
{
    /// How much of the path is in force; what is beyond belongs to a sibling already left.
    type State = usize;

    fn root(&mut self) -> usize {
        0
    }

    fn field(&mut self, from: &usize, name: Name<'_>, value: Option<&Element<'_>>) -> (usize, Step) {
        self.path.truncate(*from);
        let mut parts = name.bytes.split(|b| *b == b'.').peekable();
        while let Some(part) = parts.next() {
            if !self.path.is_empty() {
                self.path.push(b'.');
            }
            self.path.extend_from_slice(part);
            let step = self.ask(if parts.peek().is_none() { value } else { None });
            if parts.peek().is_none() || step != Step::Enter {
                return (self.path.len(), step);
            }
        }
        (self.path.len(), Step::Enter)
    }

    fn index(&mut self, from: &usize, _digits: &[u8], value: Option<&Element<'_>>) -> (usize, Step) {
        self.path.truncate(*from);
        (*from, self.ask(value))
    }

    fn action(&mut self, _number: u32) -> Action<'v> {
        self.action.clone()
    }
}
