package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/mattn/go-isatty"
)

// A Figure is one thing that was measured.
type Figure struct {
	Workload string  `json:"workload"`
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit,omitempty"`
}

// A Report is what a run comes to.
type Report struct {
	Began    time.Time `json:"began"`
	URLs     []string  `json:"urls"`
	Load     Load      `json:"load"`
	Duration string    `json:"duration"`
	Figures  []Figure  `json:"figures"`
	Problems []Problem `json:"problems"`
	Error    string    `json:"error,omitempty"`
}

func (b *bench) report(err error) Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := Report{
		Began: b.began, URLs: b.urls, Load: b.load, Duration: b.duration.String(),
		Figures: append([]Figure{}, b.figures...), Problems: append([]Problem{}, b.problems...),
	}
	if b.dropped > 0 {
		r.Problems = append(r.Problems, Problem{"more", fmt.Sprintf("%d more of these", b.dropped)})
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (b *bench) add(workload, name string, value float64, unit string) {
	b.figures = append(b.figures, Figure{workload, name, value, unit})
}

// rate adds how many there were a second.
func (b *bench) rate(workload, name string, m measured, n int64) {
	b.add(workload, name, float64(n)/m.took.Seconds(), "/s")
}

// costs adds the CPU that n of something took, for as many as is usual.
func (b *bench) costs(workload, what string, per float64, m measured, n int64) {
	servers, redis := b.procs.watches()
	each := func(d time.Duration) float64 { return d.Seconds() / float64(max(n, 1)) * per }
	if servers {
		b.add(workload, "server CPU per "+what, each(m.servers), "s")
	}
	if redis {
		b.add(workload, "Redis CPU per "+what, each(m.redis), "s")
	}
	b.add(workload, "roombench CPU per "+what, each(m.own), "s")
}

// busy adds how busy everybody was, as part of one processor.
func (b *bench) busy(workload string, m measured) {
	servers, redis := b.procs.watches()
	part := func(d time.Duration) float64 { return d.Seconds() / m.took.Seconds() * 100 }
	if servers {
		b.add(workload, "server CPU", part(m.servers), "% of a core")
	}
	if redis {
		b.add(workload, "Redis CPU", part(m.redis), "% of a core")
	}
	b.add(workload, "roombench CPU", part(m.own), "% of a core")
}

// percentiles adds how late things were.
func (b *bench) percentiles(workload, what string, times *hdrhistogram.Histogram) {
	if times.TotalCount() == 0 {
		return
	}
	for _, p := range []float64{50, 90, 99, 99.9} {
		b.add(workload, fmt.Sprintf("%s p%v", what, p), float64(times.ValueAtPercentile(p))/1000, "ms")
	}
	b.add(workload, what+" max", float64(times.Max())/1000, "ms")
}

// table writes a report for a person.
func (r Report) table(w io.Writer) {
	workload := ""
	for _, f := range r.Figures {
		if f.Workload != workload {
			workload = f.Workload
			fmt.Fprintf(w, "\n%s\n", workload)
		}
		fmt.Fprintf(w, "  %-40s %12s %s\n", f.Name, number(f.Value), f.Unit)
	}
	if len(r.Problems) > 0 {
		fmt.Fprintln(w, "\nBROKEN PROMISES")
		for _, p := range r.Problems {
			fmt.Fprintf(w, "  %s\n", p)
		}
	}
	fmt.Fprintln(w)
}

// save writes a report for a program.
func save(file string, report any) error {
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// number writes three digits that mean something, and thousands apart.
func number(v float64) string {
	if v != 0 && math.Abs(v) < 99.95 {
		digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
		return fmt.Sprintf("%.*f", min(max(digits, 1), 5), v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// progress tells a person how far it is: in one line that is written anew on a
// terminal, and now and then elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	every    time.Duration

	mu   sync.Mutex
	last time.Time
	open bool // the line on the terminal
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	if ok && isatty.IsTerminal(f.Fd()) {
		return &progress{w: w, terminal: true, every: 200 * time.Millisecond}
	}
	return &progress{w: w, every: 5 * time.Second, last: time.Now()}
}

// status says what is going on. Most of what it is told is not written.
func (p *progress) status(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.last) < p.every {
		return
	}
	p.last = time.Now()
	if p.terminal {
		text := fmt.Sprintf(format, args...)
		fmt.Fprintf(p.w, "\r%s%s", text, strings.Repeat(" ", max(0, 100-len(text))))
		p.open = true
		return
	}
	fmt.Fprintf(p.w, format+"\n", args...)
}

// say writes a line in any case.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
	p.last = time.Now()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// clear ends what status has left on a terminal.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
}

func (p *progress) clearLocked() {
	if p.open {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", 100))
		p.open = false
	}
}
