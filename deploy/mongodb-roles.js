// Creates the roles and accounts that Archiver needs, and nothing more. For mongosh, as a user administrator, from the
// top of the repository:
//
//   mongosh "mongodb://admin@host/admin" --file deploy/mongodb-roles.js
//
// Adapt the constants first. Run it on the watched deployment and on that of the audit database, each time with the part
// that belongs there. Run it again when sources are added: roles are brought up to date, accounts keep their passwords.
//
// What each role is for and allows stands in mongodb-roles.json beside this file: `archiver check` compares accounts with
// the same file, and the tests run under it.

// Databases that the sources watch.
const WATCHED = ["shop"];
// true where one source watches several databases or "*": its change stream is then opened on the whole deployment,
// and MongoDB allows that only to an account that may read all of it. Better: one source for each database.
const WHOLE_DEPLOYMENT = false;
// [audit] database.
const AUDIT = "audit";
// Databases into which `replay` may write; none where nobody does that here.
const TARGETS = [];
// The names of all sources.
const SOURCES = ["payments"];
// Which accounts to create here: "watched", "audit", or both where one deployment holds both.
const PARTS = ["watched", "audit"];
// Roles for the account that watches, beyond what it needs: "archiverMonitor", "archiverImages", "archiverActors".
const OPTIONAL = ["archiverMonitor"];
// For certificates (MONGODB-X509) instead of passwords: their subjects, such as "CN=archiver-watched,O=example".
const SUBJECTS = { watched: null, audit: null };

const roles = JSON.parse(require("fs").readFileSync(__dirname + "/mongodb-roles.json", "utf8"));
const admin = db.getSiblingDB("admin");

// One privilege for everything that the placeholders in its resource stand for.
function expand({ resource, actions }) {
  if (resource.cluster) return [{ resource, actions }];
  const names = { "<watched>": WATCHED, "<audit>": [AUDIT], "<source>": SOURCES, "<target>": TARGETS };
  const all = (part) => names[part] ?? [part];
  return all(resource.db).flatMap((db) =>
    all(resource.collection).map((collection) => ({ resource: { db, collection }, actions })),
  );
}

function defineRole(name) {
  const definition = { privileges: roles[name].privileges.flatMap(expand), roles: [] };
  if (admin.getRole(name) === null) admin.createRole({ role: name, ...definition });
  else admin.updateRole(name, definition);
}

// Two accounts even on one deployment: the one that reads documents can't touch the audit log, and the other way round.
function defineAccount(part, names) {
  names.forEach(defineRole);
  const subject = SUBJECTS[part];
  const home = subject ? db.getSiblingDB("$external") : admin;
  const user = subject ?? `archiver-${part}`;
  const granted = names.map((role) => ({ role, db: "admin" }));
  if (home.getUser(user) !== null) {
    home.updateUser(user, { roles: granted });
  } else if (subject) {
    home.createUser({ user, roles: granted });
  } else {
    print(`Password for the new account ${user}:`);
    home.createUser({ user, pwd: passwordPrompt(), roles: granted });
  }
  print(`${user}: ${names.join(", ")}`);
}

if (PARTS.includes("watched")) {
  defineAccount("watched", [WHOLE_DEPLOYMENT ? "archiverWatchAll" : "archiverWatch", ...OPTIONAL]);
}
if (PARTS.includes("audit")) defineAccount("audit", ["archiverAudit"]);

// For people, defined here and granted by hand: archiverRead, and archiverRecover or archiverReplay for as long as that takes.
for (const [name, role] of Object.entries(roles)) {
  if (["archiverRead", "archiverRecover"].includes(name) && PARTS.includes(role.on)) defineRole(name);
}
if (TARGETS.length > 0) defineRole("archiverReplay");
