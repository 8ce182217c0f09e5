// Benchmarks of goroutines that talk to each other, on one worker or several: see main.
package main

import (
	"fmt"
	"log"
	"sync"
	"time"
)

const (
	roundTrips       = 20000
	selectChannels   = 8
	selectMessages   = 5000 // of each channel
	skynetLeaves     = 1000000
	skynetFanOut     = 10
	tasks            = 1000000
	taskSpan         = time.Microsecond
	contenders       = 100
	lockedPerLook    = 256 // a look at the clock costs more than a lock
	randomSleepers   = 1000000
	randomSleepLeast = time.Second
	nsPerMs          = 1e6
)

func pingPong() {
	ping, pong := make(chan int), make(chan int)
	go func() {
		for value := range ping {
			pong <- value
		}
	}()
	for i := 0; i < roundTrips; i++ {
		ping <- i
		if <-pong != i {
			log.Fatal("channel: a wrong value")
		}
	}
	close(ping)
}

func channel(name string, span time.Duration) {
	batches(name, span, pingPong, 2*roundTrips)
}

func selectAmongAll() {
	var c [selectChannels]chan int
	for i := range c {
		c[i] = make(chan int)
		go func(to chan<- int) {
			for k := 0; k < selectMessages; k++ {
				to <- 1
			}
		}(c[i])
	}
	for got := 0; got < selectChannels*selectMessages; {
		select {
		case n := <-c[0]:
			got += n
		case n := <-c[1]:
			got += n
		case n := <-c[2]:
			got += n
		case n := <-c[3]:
			got += n
		case n := <-c[4]:
			got += n
		case n := <-c[5]:
			got += n
		case n := <-c[6]:
			got += n
		case n := <-c[7]:
			got += n
		}
	}
}

func selectOne(name string, span time.Duration) {
	batches(name, span, selectAmongAll, selectChannels*selectMessages)
}

// The numbers from first to first+leaves-1, summed up by a tree.
func skynetNode(to chan<- int, first, leaves int) {
	if leaves == 1 {
		to <- first
		return
	}
	sums := make(chan int)
	for i := 0; i < skynetFanOut; i++ {
		go skynetNode(sums, first+i*leaves/skynetFanOut, leaves/skynetFanOut)
	}
	sum := 0
	for i := 0; i < skynetFanOut; i++ {
		sum += <-sums
	}
	to <- sum
}

func skynet(name string, span time.Duration) {
	batches(name, span, func() {
		sum := make(chan int)
		go skynetNode(sum, 0, skynetLeaves)
		if <-sum != skynetLeaves*(skynetLeaves-1)/2 {
			log.Fatal("skynet: a wrong sum")
		}
	}, nsPerMs)
}

func work(all *sync.WaitGroup) {
	for begin := time.Now(); time.Since(begin) < taskSpan; {
	}
	all.Done()
}

func steal(name string, span time.Duration) {
	batches(name, span, func() {
		var all sync.WaitGroup
		all.Add(tasks)
		for i := 0; i < tasks; i++ {
			go work(&all)
		}
		all.Wait()
	}, nsPerMs)
}

// Each contender locks until the time is over. Its share is a variable of its own until then: no false sharing.
func mutex(name string, span time.Duration) {
	var all sync.WaitGroup
	var lock sync.Mutex
	counter := 0
	shares := make([]int, contenders)
	all.Add(contenders)
	begin := time.Now()
	for i := 0; i < contenders; i++ {
		go func(share *int) {
			mine := 0
			for time.Since(begin) < span {
				for k := 0; k < lockedPerLook; k++ {
					lock.Lock()
					counter++
					lock.Unlock()
				}
				mine += lockedPerLook
			}
			*share = mine
			all.Done()
		}(&shares[i])
	}
	all.Wait()
	printShares(name, time.Since(begin), shares, counter)
}

// As bench_shares.
func printShares(name string, took time.Duration, shares []int, counter int) {
	least, sum := shares[0], 0
	for _, share := range shares {
		if share < least {
			least = share
		}
		sum += share
	}
	if sum != counter {
		log.Fatal(name, ": two held the lock at once")
	}
	fmt.Printf("%s %.4f\n", name, float64(took.Nanoseconds())/float64(sum))
	fmt.Printf("%s-share %.4f\n", name, float64(least)*float64(len(shares))/float64(sum))
}

// As bench_random.
type random uint64

func (r *random) next() uint64 {
	*r ^= *r << 13
	*r ^= *r >> 7
	*r ^= *r << 17
	return uint64(*r)
}

func sleepAll() {
	var all sync.WaitGroup
	numbers := random(88172645463325252)
	all.Add(randomSleepers)
	for i := 0; i < randomSleepers; i++ {
		span := randomSleepLeast + time.Duration(numbers.next()%uint64(randomSleepLeast))
		go func() {
			time.Sleep(span)
			all.Done()
		}()
	}
	all.Wait()
}

// The first round, in which memory is taken, does not count.
func sleepersRandom(name string, _ time.Duration) {
	sleepAll()
	cpu := cpuTime()
	sleepAll()
	fmt.Printf("%s %.4f\n", name, float64((cpuTime()-cpu).Nanoseconds())/nsPerMs)
}
