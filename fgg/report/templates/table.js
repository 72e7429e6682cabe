const table = document.querySelector("table.sortable"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const value = (row, i) => row.cells[i].dataset.v;
heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending", number = head.classList.contains("n");
  const rows = [...body.rows];
  rows.sort((a, b) => {
    const x = value(a, i), y = value(b, i);
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = number ? x - y : x.localeCompare(y, "en", { numeric: true });
    return down ? -order : order;
  });
  body.append(...rows);
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}));
const field = document.querySelector("#filter"), count = document.querySelector(".count"), all = body.rows.length;
const choices = [...document.querySelectorAll("select[data-column]")]
  .map(choice => [choice, heads.findIndex(head => head.dataset.name === choice.dataset.column)]);
const show = () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const text = [...row.cells].map(cell => cell.textContent.toLowerCase());
    const fits = words.every(word => text.some(cell => cell.includes(word)))
      && choices.every(([choice, i]) => choice.selectedIndex === 0 || row.cells[i].textContent === choice.value);
    row.hidden = !fits; shown += fits;
  }
  count.textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
};
field.addEventListener("input", show);
choices.forEach(([choice]) => choice.addEventListener("change", show));
document.querySelector("#all")?.addEventListener("change", event => table.classList.toggle("few", !event.target.checked));
document.querySelector("#save").addEventListener("click", () => {
  const quote = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  // An apostrophe keeps a spreadsheet from computing a text as a formula.
  const safe = (text, i) => !heads[i].classList.contains("n") && /^'*[=+\-@\t\r\n＝＋－＠]/.test(text) ? `'${text}` : text;
  const lines = [heads.map(head => head.dataset.name), ...[...body.rows].filter(row => !row.hidden)
    .map(row => heads.map((_, i) => safe(value(row, i), i)))].map(cells => cells.map(quote).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = document.querySelector("#save").dataset.name;
  link.click();
});
