// Measures scrapes of Go's Prometheus client, client_golang, with the series of a page.
//
// The argument is a file in the text format. All of its series become counters and gauges of a registry. For each line
// of standard input, the values of an Accept and an Accept-Encoding header with a tab in between, one scrape is done,
// and one line is printed: its CPU seconds and the bytes of its body.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: scrape PAGE")
	}
	registry := prometheus.NewRegistry()
	if err := fill(registry, os.Args[1]); err != nil {
		log.Fatal(err)
	}
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		accept, encoding, _ := strings.Cut(lines.Text(), "\t")
		request, err := http.NewRequest(http.MethodGet, "/metrics", nil)
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		request.Header.Set("Accept-Encoding", encoding)
		response := &counted{header: http.Header{}}
		// What was left of the scrape before is not this one's.
		runtime.GC()
		began := cpuSeconds()
		handler.ServeHTTP(response, request)
		fmt.Printf("%f %d\n", cpuSeconds()-began, response.bytes)
	}
}

// fill registers all families of a page, with the values that they have there.
func fill(registry *prometheus.Registry, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	var parser expfmt.TextParser
	families, err := parser.TextToMetricFamilies(file)
	if err != nil {
		return err
	}
	for name, family := range families {
		var names []string
		for _, pair := range family.Metric[0].Label {
			names = append(names, pair.GetName())
		}
		switch family.GetType() {
		case dto.MetricType_COUNTER:
			vector := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: family.GetHelp()}, names)
			registry.MustRegister(vector)
			for _, metric := range family.Metric {
				vector.With(labels(metric)).Add(metric.Counter.GetValue())
			}
		case dto.MetricType_GAUGE:
			vector := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: family.GetHelp()}, names)
			registry.MustRegister(vector)
			for _, metric := range family.Metric {
				vector.With(labels(metric)).Set(metric.Gauge.GetValue())
			}
		}
	}
	return nil
}

func labels(metric *dto.Metric) prometheus.Labels {
	labels := prometheus.Labels{}
	for _, pair := range metric.Label {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}

// cpuSeconds returns the CPU time of the process, the garbage collector and the kernel included.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return seconds(usage.Utime) + seconds(usage.Stime)
}

func seconds(value syscall.Timeval) float64 {
	return float64(value.Sec) + float64(value.Usec)/1e6
}

// counted is a response whose body is counted and not kept.
type counted struct {
	header http.Header
	bytes  int
}

func (c *counted) Header() http.Header { return c.header }

func (c *counted) WriteHeader(int) {}

func (c *counted) Write(body []byte) (int, error) {
	c.bytes += len(body)
	return len(body), nil
}
