package main

import (
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/roomgate/roomgate/protocol"
)

// metrics is the only thing that knows Prometheus. The packages it measures
// call its methods through hooks in their Configs, or are asked for their
// gauges at every scrape. All methods may be called concurrently.
type metrics struct {
	registry *prometheus.Registry

	scriptSeconds   *prometheus.HistogramVec
	pipelineCalls   prometheus.Histogram
	pipelineSeconds prometheus.Histogram
	requests        *prometheus.CounterVec
	closes          *prometheus.CounterVec
}

// latencies are the bounds of the histograms of calls to Redis, in seconds: a
// call takes a few tenths of a millisecond, and --redis-timeout is its end.
var latencies = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}

// newMetrics returns metrics with a registry of their own, which also has the
// Go runtime, the process and the build.
func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		scriptSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "roomgate_roomstore_script_seconds",
			Help:    "Time from asking for a script to its answer, waiting for a pipeline included, by script and outcome.",
			Buckets: latencies,
		}, []string{"script", "outcome"}),
		pipelineCalls: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "roomgate_roomstore_pipeline_calls",
			Help:    "Script calls that went to Redis together in one pipeline; one EVALSHA can carry out several.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024},
		}),
		pipelineSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "roomgate_roomstore_pipeline_seconds",
			Help:    "Time from sending a pipeline to Redis to its last answer.",
			Buckets: latencies,
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roomgate_gateway_requests_total",
			Help: "Requests of clients by method and by the code of their answer; 0 is success.",
		}, []string{"method", "code"}),
		closes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roomgate_gateway_closes_total",
			Help: "Ended WebSocket connections by close code; other includes links that broke without one.",
		}, []string{"code"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "roomgate_build_info",
		Help:        "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": buildVersion(), "go": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(
		m.scriptSeconds, m.pipelineCalls, m.pipelineSeconds, m.requests, m.closes, build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// script counts a call of a Lua script. outcome is "ok", the name of a refusal,
// or "error".
func (m *metrics) script(name, outcome string, took time.Duration) {
	m.scriptSeconds.WithLabelValues(name, outcome).Observe(took.Seconds())
}

// pipeline counts a batch of script calls that went to Redis together.
func (m *metrics) pipeline(calls int, took time.Duration) {
	m.pipelineCalls.Observe(float64(calls))
	m.pipelineSeconds.Observe(took.Seconds())
}

// request counts a request of a client; code is that of its error, 0 if there
// was none. A method that is none of the protocol's counts as "unknown": what
// clients make up must not become labels.
func (m *metrics) request(method string, code int) {
	if !methods[method] {
		method = "unknown"
	}
	m.requests.WithLabelValues(method, strconv.Itoa(code)).Inc()
}

// close counts the end of a connection. A code that is neither ours nor one of
// RFC 6455 counts as "other", since clients may choose what they like.
func (m *metrics) close(code int) {
	label := "other"
	if closeCodes[code] {
		label = strconv.Itoa(code)
	}
	m.closes.WithLabelValues(label).Inc()
}

// methods are those of requests; a test compares them with package protocol.
var methods = set(
	protocol.MethodLogin, protocol.MethodLogout, protocol.MethodRenewToken, protocol.MethodPing,
	protocol.MethodCreateRoom, protocol.MethodJoinRoom, protocol.MethodEnterRoom,
	protocol.MethodSwitchRoom, protocol.MethodLeaveRoom, protocol.MethodLeaveAllRoom, protocol.MethodSendRoomMessage,
	protocol.MethodQueryRoomMemberList, protocol.MethodQueryRoomMembers, protocol.MethodQueryRoomOnlineMemberCount,
	protocol.MethodQueryRoomHistory, protocol.MethodSetRoomAttributes, protocol.MethodDeleteRoomAttributes, protocol.MethodBatchRoomAttributes,
	protocol.MethodQueryRoomAllAttributes, protocol.MethodSetRoomMembersAttributes,
	protocol.MethodQueryRoomMembersAttributes, protocol.MethodQueryRoomMemberAttributesList,
)

// closeCodes are ours, and those that a client's WebSocket library sends, or
// that stand for a close that never came (1005, 1006).
var closeCodes = set(
	1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013,
	int(protocol.CloseLoginTimeout), int(protocol.CloseNoSignOfLife), int(protocol.CloseSlowConsumer),
	int(protocol.CloseNotThisProtocol), int(protocol.CloseNotAuthorised), int(protocol.CloseKickedByLogin),
	int(protocol.CloseTakenOver), int(protocol.CloseRateAbuse),
)

func set[T comparable](members ...T) map[T]bool {
	s := make(map[T]bool, len(members))
	for _, m := range members {
		s[m] = true
	}
	return s
}

// stats adds numbers that read returns at every scrape. help has their names,
// without "roomgate_", and what they mean; one that ends in _total is a
// counter, the others are gauges. A name that read leaves out is not exported;
// one that help does not have is not either, and counts in
// promhttp_metric_handler_errors_total.
func (m *metrics) stats(help map[string]string, read func() map[string]float64) {
	s := &stats{read: read, descs: map[string]*prometheus.Desc{}}
	for name, text := range help {
		s.descs[name] = prometheus.NewDesc("roomgate_"+name, text, nil, nil)
	}
	m.registry.MustRegister(s)
}

type stats struct {
	read  func() map[string]float64
	descs map[string]*prometheus.Desc
}

func (s *stats) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range s.descs {
		ch <- desc
	}
}

func (s *stats) Collect(ch chan<- prometheus.Metric) {
	for name, value := range s.read() {
		desc, ok := s.descs[name]
		if !ok {
			err := fmt.Errorf("%q is read, but has no help text", name)
			ch <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
			continue
		}
		kind := prometheus.GaugeValue
		if strings.HasSuffix(name, "_total") {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(desc, kind, value)
	}
}

// handler serves the metrics. One that cannot be collected does not take the
// others with it.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		Registry:            m.registry, // counts what could not be collected
		MaxRequestsInFlight: 3,
	})
}
