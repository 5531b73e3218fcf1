// The upload page: images in, score bars out. All addresses are relative: the service lives under any prefix.

const TOP = 5;
const MIB = 1024 * 1024;

const { maxImages, maxBytes, needsKey, explains } = document.body.dataset;
const limits = { images: Number(maxImages), bytes: Number(maxBytes) };
const find = (id) => document.getElementById(id);
const [drop, files, keyForm, keyField, alertBox, statusLine, again, clear, list] =
  ["drop", "files", "key-form", "key", "alert", "status", "again", "clear", "cards"].map(find);

// Services that share a gateway share an origin: each has a key of its own.
const keyName = `key of ${location.pathname}`;

/** Every image on the page: {file, element, state, original, explanation}, with the state waiting, busy, done or failed. */
let cards = [];
let running = false;

// --- status and errors ----------------------------------------------------------------------------------------

function complain(words) {
  alertBox.textContent = words;
  alertBox.hidden = !words;
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function percent(score) {
  if (score > 0 && score < 0.001) return "< 0.1 %";
  if (score < 1 && score > 0.999) return "> 99.9 %";
  return `${(score * 100).toFixed(1)} %`;
}

function updateStatus() {
  const counted = (state) => cards.filter((card) => card.state === state).length;
  const parts = [
    counted("busy") && `classifying ${plural(counted("busy"), "image")} …`,
    counted("done") && `${plural(counted("done"), "image")} classified`,
    counted("failed") && `${counted("failed")} could not be read`,
    !counted("busy") && counted("waiting") && `${plural(counted("waiting"), "image")} waiting`,
  ];
  const text = parts.filter(Boolean).join(", ");
  statusLine.textContent = text && `${text[0].toUpperCase()}${text.slice(1)}`;
  again.hidden = running || counted("waiting") === 0;
  clear.hidden = cards.length === 0;
}

// --- cards ----------------------------------------------------------------------------------------------------

function copyOf(template) {
  return find(template).content.firstElementChild.cloneNode(true);
}

function addCard(file) {
  const element = copyOf("card");
  const card = { file, element, state: "waiting", original: URL.createObjectURL(file), explanation: null };
  const picture = element.querySelector(".picture");
  picture.src = card.original;
  picture.alt = file.name;
  picture.addEventListener("error", () => element.querySelector("figure").classList.add("unseen"));
  element.querySelector(".file").textContent = file.name;
  element.querySelector(".file").title = file.name;
  const remove = element.querySelector(".remove");
  remove.setAttribute("aria-label", `Remove ${file.name}`);
  remove.addEventListener("click", () => removeCards([card]));
  cards.push(card);
  list.append(element);
  if (file.size > limits.bytes) {
    fail(card, `${file.name} has ${(file.size / MIB).toFixed(1)} MB; an image may have ${(limits.bytes / MIB).toFixed(0)} MB.`);
  }
}

function removeCards(gone) {
  for (const card of gone) {
    [card.original, card.explanation].filter(Boolean).forEach((address) => URL.revokeObjectURL(address));
    card.element.remove();
  }
  cards = cards.filter((card) => !gone.includes(card));
  complain("");
  updateStatus();
}

function setState(card, state) {
  card.state = state;
  card.element.classList.toggle("busy", state === "busy");
  const line = card.element.querySelector(".waiting");
  line.hidden = state === "done" || state === "failed";
  line.textContent = state === "busy" ? "Classifying …" : "Waiting";
}

function fail(card, words) {
  setState(card, "failed");
  const problem = card.element.querySelector(".problem");
  problem.textContent = words;
  problem.hidden = false;
}

function scoreRow([name, score]) {
  const row = copyOf("score");
  row.querySelector(".name").textContent = name;
  row.querySelector(".percent").textContent = percent(score);
  row.querySelector(".fill").style.width = `${score * 100}%`;
  return row;
}

function show(card, { label, unknown, scores }, model) {
  setState(card, "done");
  const element = card.element;
  const ranked = Object.entries(scores).sort(([, one], [, other]) => other - one);
  const heading = element.querySelector(".label");
  heading.textContent = unknown ? "Not sure" : label;
  element.classList.toggle("unknown", unknown === true);
  heading.hidden = false;
  const bars = element.querySelector(".scores");
  bars.replaceChildren(...ranked.slice(0, TOP).map(scoreRow));
  bars.hidden = false;
  if (ranked.length > TOP) {
    const others = element.querySelector(".others");
    others.querySelector("summary").textContent = `All ${ranked.length} classes`;
    // A thousand rows for each image are made only when they are opened.
    others.addEventListener("toggle", () => others.querySelector(".scores").replaceChildren(...ranked.map(scoreRow)), { once: true });
    others.hidden = false;
  }
  const by = [model.name, model.version && `version ${model.version}`, model.variant && `variant ${model.variant}`];
  const answered = element.querySelector(".by");
  answered.textContent = by.filter(Boolean).join(", ");
  answered.hidden = !answered.textContent;
  const button = element.querySelector(".explain");
  button.hidden = explains !== "true";
  // An unknown image has no label: its likeliest class is explained.
  button.addEventListener("click", () => explain(card, label ?? ranked[0][0], button));
}

/** Shows where the model looked in place of the picture, or the picture again. */
async function explain(card, label, button) {
  const picture = card.element.querySelector(".picture");
  if (!card.explanation) {
    button.disabled = true;
    complain("");
    const answer = await askWhere(card.file, label).catch(() => ({ error: "The service cannot be reached; try again in a moment." }));
    button.disabled = false;
    if (answer.error) {
      complain(answer.error);
      return;
    }
    card.explanation = URL.createObjectURL(answer.picture);
    if (!cards.includes(card)) URL.revokeObjectURL(card.explanation); // it was removed meanwhile
  }
  const isShown = picture.src === card.explanation;
  picture.src = isShown ? card.original : card.explanation;
  picture.alt = isShown ? card.file.name : `${card.file.name}: bright where the model found ${label}`;
  button.textContent = isShown ? "Where did it look?" : "Show the image";
}

// --- the service ----------------------------------------------------------------------------------------------

function post(path, chosen) {
  const form = new FormData();
  for (const file of chosen) form.append("image", file, file.name);
  const headers = needsKey === "true" ? { Authorization: `Bearer ${keyField.value.trim()}` } : {};
  return fetch(path, { method: "POST", body: form, headers });
}

function problemOf(status, content) {
  return content.error?.message ?? `The service answered with status ${status}; try again in a moment.`;
}

async function askWhere(file, label) {
  const answer = await post(`explain?class=${encodeURIComponent(label)}`, [file]);
  if (answer.ok) return { picture: await answer.blob() };
  return { error: problemOf(answer.status, await answer.json().catch(() => ({}))) };
}

async function ask(batch) {
  const answer = await post("predict", batch.map(({ file }) => file));
  const content = await answer.json().catch(() => ({}));
  return { status: answer.status, content };
}

/** Shows an answer; after an error of the whole request, its images wait. */
function take(batch, { status, content }) {
  if (status === 200) {
    const outcomes = content.predictions ?? [content];
    batch.forEach((card, place) => {
      if (outcomes[place].error) fail(card, outcomes[place].error.message);
      else show(card, outcomes[place], content.model);
    });
    return;
  }
  const words = problemOf(status, content);
  if (batch.length === 1 && [400, 413, 415].includes(status)) {
    fail(batch[0], words);
    return;
  }
  batch.forEach((card) => setState(card, "waiting"));
  complain(status === 401 && keyField.value ? `This is not a key of the service. ${words}` : words);
  if (status === 401) {
    keyField.setAttribute("aria-invalid", "true");
    keyField.focus();
  }
  throw new Error(words);
}

function keyIsMissing() {
  if (needsKey !== "true") return false;
  const key = keyField.value.trim();
  if (/^[\x21-\x7e]+$/.test(key)) return false;
  complain(key ? "A key has only letters, digits and signs, and no spaces." : "Enter the key of this service first.");
  keyField.focus();
  return true;
}

/** Sends the waiting images, and those that are added meanwhile. */
async function classify() {
  if (running || !cards.some((card) => card.state === "waiting") || keyIsMissing()) return;
  running = true;
  complain("");
  try {
    for (;;) {
      const batch = cards.filter((card) => card.state === "waiting");
      if (batch.length === 0) break;
      batch.forEach((card) => setState(card, "busy"));
      updateStatus();
      const answer = await ask(batch).catch(() => ({
        status: 0,
        content: { error: { message: "The service cannot be reached; try again in a moment." } },
      }));
      take(batch, answer);
    }
  } catch {
    // The error is shown; the waiting images are sent again with another key, or later.
  } finally {
    running = false;
    updateStatus();
  }
}

function add(chosen) {
  complain("");
  const room = limits.images - cards.length;
  if (chosen.length > room) {
    const here = cards.length ? `; ${cards.length} are here, and you chose ${chosen.length} more` : `, not ${chosen.length}`;
    complain(`Up to ${limits.images} images at a time${here}. Choose fewer${cards.length ? ", or clear first" : ""}.`);
    return;
  }
  chosen.forEach(addCard);
  updateStatus();
  classify();
}

// --- events ---------------------------------------------------------------------------------------------------

find("choose").addEventListener("click", () => files.click());
files.addEventListener("change", () => {
  add([...files.files]);
  files.value = ""; // the same file may be chosen again
});

let depth = 0; // a drag enters and leaves every element inside too
addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth += 1;
  drop.classList.add("over");
});
addEventListener("dragleave", () => {
  depth -= 1;
  if (depth <= 0) drop.classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  // Anywhere on the page: a browser would open the image instead.
  event.preventDefault();
  depth = 0;
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) add([...event.dataTransfer.files]);
  else complain("Those were no files: save the image first, then drop its file.");
});
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add([...event.clipboardData.files]);
});

again.addEventListener("click", classify);
clear.addEventListener("click", () => removeCards(cards));

if (needsKey === "true") {
  keyForm.hidden = false;
  keyField.value = sessionStorage.getItem(keyName) ?? "";
  keyField.addEventListener("input", () => {
    keyField.removeAttribute("aria-invalid");
    sessionStorage.setItem(keyName, keyField.value);
  });
  keyForm.addEventListener("submit", (event) => {
    event.preventDefault();
    complain("");
    classify();
  });
}

const address = new URL("predict", location.href);
find("curl").textContent = `curl ${needsKey === "true" ? '-H "Authorization: $KEY" ' : ""}-F image=@photo.jpg ${address}`;
