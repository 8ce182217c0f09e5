// Peers in Go: goroutines beside coroutines, and its servers.
//
//	peer CASE MILLISECONDS       yield, spawn-one, spawn-batch, sleepers-N: as bench.h
//	peer CASE-WORKERS MILLISECONDS   those of peer_workers.go
//	peer echo-WORKERS|http-WORKERS PORT   servers, on 127.0.0.1
//
// Where a case does not name the workers, bench/run sets GOMAXPROCS=1: one, as ours.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	goroutines = 1000
	yields     = 200
	spawns     = 20000
	sleepShare = 5 * time.Microsecond
)

func batches(name string, span time.Duration, batch func(), operations float64) {
	var took []float64
	batch()
	for end := time.Now().Add(span); len(took) == 0 || time.Now().Before(end); {
		begin := time.Now()
		batch()
		took = append(took, float64(time.Since(begin).Nanoseconds()))
	}
	sort.Float64s(took)
	fmt.Printf("%s %.4f\n", name, took[len(took)/2]/operations)
}

// Plain variables, as there is one worker, and its goroutines lose it only where they yield.
var running int

func waitForAll() {
	for running > 0 {
		runtime.Gosched()
	}
}

func yieldAmongAll() {
	running = goroutines
	for i := 0; i < goroutines; i++ {
		go func() {
			for i := 0; i < yields; i++ {
				runtime.Gosched()
			}
			running--
		}()
	}
	waitForAll()
}

func spawnOneAtATime() {
	for i := 0; i < spawns; i++ {
		running = 1
		go func() { running-- }()
		waitForAll()
	}
}

func spawnInBatches() {
	for i := 0; i < spawns; i += goroutines {
		running = goroutines
		for k := 0; k < goroutines; k++ {
			go func() { running-- }()
		}
		waitForAll()
	}
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// As in timers.c.
func sleepers(name string, span time.Duration, count int) {
	const look = 10 * time.Millisecond
	var begin time.Time
	var waiting, sleeps int
	round := time.Duration(count) * sleepShare
	for i := 0; i < count; i++ {
		share := time.Duration(i) * sleepShare
		go func() {
			waiting++
			for begin.IsZero() {
				time.Sleep(round)
			}
			for at := begin.Add(share); ; at = at.Add(round) {
				time.Sleep(time.Until(at))
				sleeps++
			}
		}()
	}
	for waiting < count {
		time.Sleep(look)
	}
	begin = time.Now()
	measured := begin.Add(round)
	rounds := 1 + (span-1)/round
	time.Sleep(time.Until(measured))
	cpu, before := cpuTime(), sleeps
	time.Sleep(time.Until(measured.Add(rounds * round)))
	cpu = cpuTime() - cpu
	fmt.Printf("%s %.4f\n", name, float64(cpu.Nanoseconds())/float64(sleeps-before))
}

func serveEcho(port string) {
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 64)
			for {
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				if _, err := conn.Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func serveHTTP(port string) {
	hello := []byte("hello")
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write(hello)
	})))
}

// What takes a number of workers; port or milliseconds is its second argument.
var onWorkers = map[string]func(name, number string){
	"channel":         measured(channel),
	"select":          measured(selectOne),
	"skynet":          measured(skynet),
	"steal":           measured(steal),
	"mutex":           measured(mutex),
	"sleepers-random": measured(sleepersRandom),
	"echo":            func(_, port string) { serveEcho(port) },
	"http":            func(_, port string) { serveHTTP(port) },
}

func measured(run func(name string, span time.Duration)) func(name, number string) {
	return func(name, number string) {
		milliseconds, err := strconv.Atoi(number)
		if err != nil {
			log.Fatal(err)
		}
		run(name, time.Duration(milliseconds)*time.Millisecond)
	}
}

// "name-7": "name", 7; without a number 0
func cutNumber(name string) (string, int) {
	at := strings.LastIndexByte(name, '-')
	if at < 0 {
		return name, 0
	}
	number, err := strconv.Atoi(name[at+1:])
	if err != nil {
		return name, 0
	}
	return name[:at], number
}

// Resident memory and page tables.
func memory() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		log.Fatal(err)
	}
	sum := 0
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmRSS:") || strings.HasPrefix(line, "VmPTE:") {
			kib, _ := strconv.Atoi(strings.Fields(line)[1])
			sum += kib
		}
	}
	return float64(sum) * 1024
}

//go:noinline
func look(locals *[200]byte, n byte) {
	for i := range locals {
		locals[i] += n
	}
}

// Parked at a channel, with 200 bytes of live locals.
func parked(name string, count int) {
	never := make(chan bool)
	running = 0
	before := memory()
	for i := 0; i < count; i++ {
		n := byte(i)
		go func() {
			var locals [200]byte
			look(&locals, n)
			running++
			<-never
			look(&locals, n)
		}()
		if i%goroutines == 0 {
			runtime.Gosched()
		}
	}
	for running < count {
		runtime.Gosched()
	}
	fmt.Printf("%s %.4f\n", name, (memory()-before)/float64(count))
}

func runOne(name string, span time.Duration) {
	base, count := cutNumber(name)
	switch base {
	case "yield":
		batches(name, span, yieldAmongAll, goroutines*yields)
	case "spawn-one":
		batches(name, span, spawnOneAtATime, spawns)
	case "spawn-batch":
		batches(name, span, spawnInBatches, spawns)
	case "sleepers":
		sleepers(name, span, count)
	case "parked":
		parked(name, count)
	default:
		log.Fatal("unknown case ", name)
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: peer CASE[-WORKERS] MILLISECONDS | peer echo-WORKERS|http-WORKERS PORT")
	}
	name, number := os.Args[1], os.Args[2]
	base, workers := cutNumber(name)
	if run, found := onWorkers[base]; found && workers > 0 {
		runtime.GOMAXPROCS(workers)
		run(name, number)
	} else {
		measured(runOne)(name, number)
	}
}
