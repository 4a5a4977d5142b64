"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const names = data.runtimes.map((runtime) => runtime.name);
const find = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function badge(verdict) {
  const known = ["passed", "failed", "skipped", "unobservable"].includes(verdict);
  return make("span", { class: `verdict ${known ? verdict : "none"}` }, verdict);
}

function card(runtime) {
  const words = ["passed", "failed", "skipped", "unobservable"];
  const all = data.requirements.length;
  const bar = make("div", { class: "bar" });
  for (const word of words) bar.append(make("i", { class: word, style: `width:${(100 * (runtime.totals[word] || 0)) / all}%` }));
  const requirements = words.map((word) => `${runtime.totals[word] || 0} ${word}`).join(" · ");
  const cases = ["passed", "failed", "skipped"].map((word) => `${runtime.case_totals[word] || 0} ${word}`).join(" · ");
  const element = make("div", { class: "card" }, make("h2", {}, runtime.name), make("p", {}, runtime.version), bar,
    make("p", {}, `${all} requirements: ${requirements}`), make("p", {}, `${runtime.cases.length} cases: ${cases}, ${runtime.seconds} s`));
  for (const note of runtime.notes) element.append(make("p", {}, note));
  return element;
}

function detail(requirement) {
  const cell = make("td", { colspan: 3 + names.length });
  const link = make("a", { href: requirement.link }, "specification");
  cell.append(make("p", {}, make("strong", {}, requirement.level), ` ${requirement.text} (`, link, ")"));
  cell.append(make("p", { class: "reason" }, `Property: ${requirement.config_path} · kernel: ${requirement.interface} · `
    + `how to see it: ${requirement.verify} · other suites: ${requirement.upstream}`));
  if (requirement.unobservable) cell.append(make("p", { class: "reason" }, `No case: ${requirement.unobservable}`));
  for (const runtime of data.runtimes) {
    const cases = requirement.results[runtime.name].cases;
    if (!cases.length) continue;
    const list = make("ul");
    for (const number of cases) {
      const row = runtime.cases[number];
      const item = make("li", {}, badge(row.verdict), " ", row.what, " ", make("code", {}, row.case));
      if (row.reason) item.append(make("div", { class: "reason" }, row.reason));
      list.append(item);
    }
    cell.append(make("h3", {}, runtime.name), list);
  }
  return make("tr", { class: "detail" }, cell);
}

function row(requirement) {
  const element = make("tr", { class: "requirement", tabindex: "0", id: requirement.id, "aria-expanded": "false" },
    make("td", { class: "id" }, requirement.id), make("td", { class: "level" }, requirement.level), make("td", {}, requirement.text));
  for (const name of names) element.append(make("td", {}, badge(requirement.results[name].verdict)));
  const toggle = () => {
    const open = element.getAttribute("aria-expanded") === "true";
    element.setAttribute("aria-expanded", String(!open));
    if (open) element.nextSibling.remove();
    else element.after(detail(requirement));
  };
  element.addEventListener("click", toggle);
  element.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(); });
  return element;
}

function words(requirement) {
  const reasons = data.runtimes.flatMap((runtime) => requirement.results[runtime.name].cases.map((n) => runtime.cases[n].reason));
  return [requirement.id, requirement.text, requirement.config_path, ...reasons].join(" ").toLowerCase();
}

function verdictFits(requirement, wanted) {
  if (!wanted) return true;
  const seen = names.map((name) => requirement.results[name].verdict);
  if (wanted === "differ") return new Set(seen).size > 1;
  return seen.includes(wanted);
}

function draw() {
  const text = find("search").value.toLowerCase();
  const [area, level, verdict] = ["area", "level", "verdict"].map((id) => find(id).value);
  const shown = data.requirements.filter((one) => (!area || one.area === area) && (!level || one.level === level)
    && verdictFits(one, verdict) && (!text || words(one).includes(text)));
  find("matrix").tBodies[0].replaceChildren(...shown.map(row));
  find("count").textContent = `${shown.length} of ${data.requirements.length}`;
}

function fill(id, first, values) {
  find(id).append(make("option", { value: "" }, first), ...values.map(([value, label]) => make("option", { value }, label)));
  find(id).addEventListener("input", draw);
}

function upstream() {
  if (!data.upstream.length) return;
  const programs = [...new Set(data.upstream.map((one) => one.program))];
  const runtimes = [...new Set(data.upstream.map((one) => one.runtime))];
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "program"), ...runtimes.map((name) => make("th", {}, name)), make("th", {}, "known about the program"))));
  const body = make("tbody");
  for (const program of programs) {
    const line = make("tr", {}, make("td", { class: "id" }, program));
    let about = "";
    for (const name of runtimes) {
      const one = data.upstream.find((entry) => entry.program === program && entry.runtime === name);
      about = (one && one.about) || about;
      line.append(one ? make("td", {}, make("span", { class: `verdict ${["clean", "silent"].includes(one.verdict) ? "passed" : "failed"}` }, one.verdict),
        ` ${one.ok} ok, ${one.not_ok} not ok`, make("div", { class: "reason" }, one.reason)) : make("td"));
    }
    line.append(make("td", { class: "reason" }, about));
    body.append(line);
  }
  table.append(body);
  find("upstream").append(make("h2", {}, "Validation programs of runtime-tools"), table);
}

find("host").textContent = `Linux ${data.host.kernel} (${data.host.machine}), ${data.host.cgroups}; ${data.host.date}`;
find("totals").append(...data.runtimes.map(card));
find("matrix").tHead.append(make("tr", {}, make("th", {}, "requirement"), make("th", { class: "level" }, "level"), make("th", {}, "text"),
  ...names.map((name) => make("th", {}, name))));
fill("area", "every area", [...new Set(data.requirements.map((one) => one.area))].map((word) => [word, word]));
fill("level", "every level", [...new Set(data.requirements.map((one) => one.level))].map((word) => [word, word]));
fill("verdict", "every verdict", [["failed", "failed"], ["passed", "passed"], ["skipped", "skipped"], ["unobservable", "unobservable"], ["differ", "runtimes differ"]]);
find("search").addEventListener("input", draw);
draw();
upstream();
if (location.hash && find(decodeURIComponent(location.hash.slice(1)))) find(decodeURIComponent(location.hash.slice(1))).click();
