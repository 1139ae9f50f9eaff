"use strict";
(function () {
  const table = document.getElementById("matrix");
  if (table) {
    const name = document.getElementById("name"), verdict = document.getElementById("verdict");
    const mode = document.getElementById("mode"), shown = document.getElementById("shown");
    const filter = () => {
      let count = 0;
      for (const cell of table.querySelectorAll("[data-mode]")) cell.hidden = mode.value !== "" && cell.dataset.mode !== mode.value;
      for (const row of table.tBodies[0].rows) {
        const cells = [...row.querySelectorAll("td")].filter((c) => !c.hidden);
        const fits = row.dataset.name.includes(name.value.trim().toLowerCase()) &&
          (verdict.value === "" || cells.some((c) => c.dataset.verdict === verdict.value));
        row.hidden = !fits;
        count += fits ? 1 : 0;
      }
      shown.textContent = count + " claims";
    };
    for (const input of [name, verdict, mode]) input.addEventListener("input", filter);
    filter();
  }
  const map = document.getElementById("map");
  if (map) {
    const rows = JSON.parse(document.getElementById("rows").textContent);
    const layout = JSON.parse(document.getElementById("layout").textContent);
    const box = document.getElementById("mdcr"), fields = document.getElementById("fields");
    const draw = () => {
      let value;
      try { value = BigInt(box.value.trim().replace(/_/g, "")); } catch (e) { value = null; }
      box.setAttribute("aria-invalid", value === null || value < 0n || value >= 1n << 64n ? "true" : "false");
      if (value === null || value < 0n || value >= 1n << 64n) { fields.textContent = "not a 64-bit number"; map.replaceChildren(); return; }
      const get = (n) => { const f = layout.find((c) => c[0] === n); return (value >> BigInt(f[2])) & ((1n << BigInt(f[1] - f[2] + 1)) - 1n); };
      fields.textContent = layout.filter((c) => c[0] && get(c[0]) !== 0n).map((c) => c[1] === c[2] ? c[0] : c[0] + "=" + get(c[0])).join(" ");
      const traps = (t) => {
        if (t === "TTA") return true;
        if (t === "E2PB" || t === "E2TB") return (get(t) & 1n) === 0n;
        if (t === "EnSPM") return get(t) === 0n;
        if (t === "TDCC") return false;
        return get(t) === 1n || (["TDA", "TDRA", "TDOSA"].includes(t) && get("TDE") === 1n);
      };
      map.replaceChildren(...rows.map((row) => {
        const item = document.createElement("li"), why = row.traps.filter(traps);
        item.className = why.length ? "v proved" : "v violated";
        item.textContent = row.name + (why.length ? ": trapped" : ": executes");
        item.title = why.join(", ");
        return item;
      }));
    };
    box.addEventListener("input", draw);
    draw();
  }
})();
