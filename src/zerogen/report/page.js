"use strict";
(() => {
  const { rows, prompts } = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 50;
  const $ = (id) => document.getElementById(id);
  const has = (name) => rows.some((row) => row[name] !== undefined);
  const search = $("search"), label = $("label"), doubt = $("doubt"), order = $("order");

  // Characters that show nothing, or turn what follows around, are shown by a visible sign.
  const visible = (text) =>
    text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (c) =>
      c < "\u0020" ? String.fromCharCode(0x2400 + c.charCodeAt(0))
        : c === "\u007f" ? "\u2421"
        : `[U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = visible(String(text));
    if (name) made.className = name;
    return made;
  };
  const percent = (value) => `${(100 * value).toFixed(1)} %`;

  const option = (select, value, text) => {
    const made = element("option", text);
    made.value = value;
    select.append(made);
  };
  option(doubt, "", "all");
  const doubts = {
    disputed: (row) => row.agreement !== undefined && row.agreement < 0.5,
    agreed: (row) => row.agreement !== undefined && row.agreement >= 0.5,
    unsure: (row) => row.confidence !== undefined && row.confidence < 0.5,
  };
  if (has("agreement")) {
    option(doubt, "disputed", "prediction or evaluator differs");
    option(doubt, "agreed", "prediction or evaluator agrees");
  }
  if (has("confidence")) option(doubt, "unsure", "confidence below 50 %");
  const by = (name, sign) => (a, b) => sign * ((a[name] ?? Infinity) - (b[name] ?? Infinity) || 0);
  const orders = { "": null };
  option(order, "", "as written");
  const offer = (value, text, compare) => { orders[value] = compare; option(order, value, text); };
  if (has("probability")) offer("probability", "most disputed first", by("probability", 1));
  if (has("confidence")) {
    offer("confidence", "least confident first", by("confidence", 1));
    offer("sure", "most confident first", (a, b) => (b.confidence ?? -1) - (a.confidence ?? -1));
  }
  if (has("margin")) offer("margin", "smallest margin first", by("margin", 1));
  if (has("round_trip")) offer("round_trip", "worst answered by the PLM first", by("round_trip", 1));
  if (has("logprob")) offer("logprob", "least probable text first", by("logprob", 1));
  offer("long", "longest first", (a, b) => b.text.length - a.text.length);
  offer("short", "shortest first", (a, b) => a.text.length - b.text.length);
  if (doubt.options.length < 2) doubt.parentElement.hidden = true;

  const haystack = rows.map((row) => `${row.text}\n${row.context}\n${row.answer ?? ""}`.toLowerCase());
  let found = [], page = 0;

  const filled = (row) => {
    const template = prompts[row.label || "question"];
    if (template === undefined) return undefined;
    const values = { C: row.context, Y: row.answer ?? "" };
    return template.replace(/<(\w+)>/g, (_, name) => values[name] ?? "");
  };

  const show = (row) => {
    const item = element("li"), text = element("p", row.text, "text");
    text.dir = "auto";
    const about = element("p", undefined, "about");
    const part = (words, name) => about.append(element("span", (about.childElementCount ? " \u00b7 " : "") + words, name));
    if (row.label) part(row.label);
    if (row.answer !== undefined) part(`answer: ${row.answer}`);
    if (row.reply !== undefined) part(`the PLM answers: ${row.reply || "nothing"}`, row.round_trip >= 0.5 ? "" : "no");
    if (row.way !== undefined) part(`made by: ${row.way}`);
    if (row.said !== undefined) {
      const agrees = row.agreement >= 0.5;
      part(`${agrees ? "agrees" : "differs"}: ${row.said}`, agrees ? "" : "no");
    }
    if (row.confidence !== undefined) part(`confidence ${percent(row.confidence)}`);
    const details = element("details"), list = element("dl");
    const summary = element("summary", "Where it comes from");
    summary.setAttribute("aria-label", `Where row ${row.uid} comes from`);
    details.append(summary, list);
    details.addEventListener("toggle", () => {
      if (!details.open || list.childElementCount) return;
      const line = (name, value) => { if (value !== undefined && value !== "") list.append(element("dt", name), element("dd", value)); };
      line("row", row.uid);
      if (row.logprob !== undefined) line("prompt", filled(row));
      line("context", row.context);
      line("F1 of what the PLM answers", row.round_trip);
      line("mean log-probability of a token", row.logprob);
      line("margin over the other labels' prompts", row.margin);
      line("probability of the label", row.probability);
    });
    const copy = element("button", "Copy as JSON");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      const json = JSON.stringify(row);
      try {
        await navigator.clipboard.writeText(json);
      } catch { // a page from disk may not have the clipboard
        const area = element("textarea");
        area.value = json;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy as JSON"; }, 1500);
    });
    details.append(copy);
    item.append(text, about, details);
    return item;
  };

  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    $("list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((i) => show(rows[i])));
    $("list").start = page * PAGE + 1;
    $("count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    $("pages").hidden = pages < 2;
    $("page").textContent = `Page ${page + 1} of ${pages}`;
    $("back").disabled = page === 0;
    $("next").disabled = page === pages - 1;
  };
  const update = () => {
    const words = search.value.trim().toLowerCase(), only = label ? label.value : "", doubted = doubts[doubt.value];
    found = [];
    rows.forEach((row, i) => {
      if ((!only || row.label === only) && (!words || haystack[i].includes(words)) && (!doubted || doubted(row))) found.push(i);
    });
    const compare = orders[order.value];
    if (compare) found.sort((a, b) => compare(rows[a], rows[b]) || a - b);
    page = 0;
    draw();
  };
  const turn = (by) => { page += by; draw(); $("browser").focus(); $("browser").scrollIntoView(); };
  let waiting;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 120); });
  for (const control of [label, doubt, order]) if (control) control.addEventListener("change", update);
  $("controls").addEventListener("submit", (event) => { event.preventDefault(); update(); });
  $("back").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("controls").hidden = false;
  update();
})();
