//! What can be selected: the fields of each kind of element, by name and type.

/// The fields of a structure.
pub(crate) type Fields = [(&'static str, Field)];

/// A field's type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// True or false.
    Bool,
    /// A list of texts.
    TextList,
    /// A map with keys of the client's own to texts.
    TextMap,
    /// A map with keys of the client's own to structures.
    StructMap(&'static Fields),
    /// A structure.
    Struct(&'static Fields),
    /// A list of structures: any one of them will do.
    StructList(&'static Fields),
}

const ADDRESS: Fields2 = [("Address", Field::Text), ("Port", Field::Number)];
const WEIGHTS: Fields2 = [("Passing", Field::Number), ("Warning", Field::Number)];
type Fields2 = [(&'static str, Field); 2];

/// An element of `catalog/nodes`.
pub(crate) static NODE: [(&str, Field); 6] = [
    ("ID", Field::Text),
    ("Node", Field::Text),
    ("Address", Field::Text),
    ("Datacenter", Field::Text),
    ("TaggedAddresses", Field::TextMap),
    ("Meta", Field::TextMap),
];

/// A service by itself: `catalog/node`, `agent/services`.
pub(crate) static SERVICE: [(&str, Field); 12] = [
    ("Kind", Field::Text),
    ("ID", Field::Text),
    ("Service", Field::Text),
    ("Tags", Field::TextList),
    ("Address", Field::Text),
    ("TaggedAddresses", Field::StructMap(&ADDRESS)),
    ("Meta", Field::TextMap),
    ("Port", Field::Number),
    ("SocketPath", Field::Text),
    ("Weights", Field::Struct(&WEIGHTS)),
    ("EnableTagOverride", Field::Bool),
    ("Datacenter", Field::Text),
];

/// A service flat with its node: `catalog/service`, `catalog/services`.
pub(crate) static CATALOG_SERVICE: [(&str, Field); 17] = [
    ("ID", Field::Text),
    ("Node", Field::Text),
    ("Address", Field::Text),
    ("Datacenter", Field::Text),
    ("TaggedAddresses", Field::TextMap),
    ("NodeMeta", Field::TextMap),
    ("ServiceKind", Field::Text),
    ("ServiceID", Field::Text),
    ("ServiceName", Field::Text),
    ("ServiceTags", Field::TextList),
    ("ServiceAddress", Field::Text),
    ("ServiceTaggedAddresses", Field::StructMap(&ADDRESS)),
    ("ServiceWeights", Field::Struct(&WEIGHTS)),
    ("ServiceMeta", Field::TextMap),
    ("ServicePort", Field::Number),
    ("ServiceSocketPath", Field::Text),
    ("ServiceEnableTagOverride", Field::Bool),
];

/// A check.
pub(crate) static CHECK: [(&str, Field); 10] = [
    ("Node", Field::Text),
    ("CheckID", Field::Text),
    ("Name", Field::Text),
    ("Status", Field::Text),
    ("Notes", Field::Text),
    ("Output", Field::Text),
    ("ServiceID", Field::Text),
    ("ServiceName", Field::Text),
    ("ServiceTags", Field::TextList),
    ("Type", Field::Text),
];

/// An element of `health/service`.
pub(crate) static ENDPOINT: [(&str, Field); 3] = [
    ("Node", Field::Struct(&NODE)),
    ("Service", Field::Struct(&SERVICE)),
    ("Checks", Field::StructList(&CHECK)),
];

/// The type of the field that a path leads to; `None` if it leads nowhere.
pub(super) fn resolve(fields: &'static Fields, path: &[String]) -> Option<Field> {
    let (name, mut rest) = path.split_first()?;
    let mut field = find(fields, name)?;
    while let Some((name, behind)) = rest.split_first() {
        field = match field {
            Field::Struct(fields) | Field::StructList(fields) => find(fields, name)?,
            Field::StructMap(fields) => Field::Struct(fields),
            Field::TextMap => Field::Text,
            Field::Text | Field::Number | Field::Bool | Field::TextList => return None,
        };
        rest = behind;
    }
    Some(field)
}

fn find(fields: &'static Fields, name: &str) -> Option<Field> {
    fields
        .iter()
        .find(|(field, _)| *field == name)
        .map(|(_, field)| *field)
}
